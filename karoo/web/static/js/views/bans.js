// #/bans: who is kept out, why and for how long.

import { foreign, h } from "../dom.js";
import { count, duration, moment } from "../format.js";
import { ListView } from "../listview.js";
import { address, empty, heading } from "../parts.js";
import { store } from "../store.js";

const COLUMNS = [
  { key: "address", title: "Address", sort: true, head: true, still: true, cell: (ban) => address(ban.address) },
  { key: "why", title: "Why", class: "col-text", cell: (ban) => foreign(ban.why, { title: null }) },
  { key: "times", title: "Times", sort: true, num: true, class: "wide-2", cell: (ban) => count(ban.times) },
  {
    key: "since",
    title: "Since",
    sort: true,
    num: true,
    class: "wide-1",
    cell: (ban) => moment(ban.since_unix, store.now()),
  },
  {
    key: "until",
    title: "Until",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (ban) => moment(ban.until_unix, store.now()),
  },
  { key: "seconds_left", title: "Left", num: true, cell: (ban) => duration(ban.seconds_left) },
];

export function bansView({ params }) {
  const list = new ListView(
    {
      id: "bans",
      caption: "Banned addresses",
      path: "bans",
      page: "bans",
      columns: COLUMNS,
      sort: "since",
      order: "desc",
      noun: ["ban", "bans"],
      search: "Search address or reason",
      row: (ban) => ({ key: ban.address, dataset: { ban: ban.address } }),
      empty: (filtered) =>
        filtered
          ? empty("No ban matches", "Try another word.")
          : empty(
              "Nobody is banned",
              "Addresses whose miners misbehave are kept out for a while, and are then listed here with the reason.",
              h("p", null, h("a", { href: "#/events?kind=ban" }, "Bans of the past")),
            ),
    },
    params,
  );
  return {
    element: h("div", null, heading("Bans"), list.element),
    title: "Bans",
    update() {},
    destroy: () => list.destroy(),
  };
}
