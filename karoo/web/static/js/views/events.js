// #/events: what happened, the latest first, by kind.

import { foreign, h } from "../dom.js";
import { ago, moment } from "../format.js";
import { ListView } from "../listview.js";
import { badge, empty, heading } from "../parts.js";
import { store } from "../store.js";
import { EVENT_KINDS } from "../words.js";

const TONES = { critical: "bad", warning: "warn", info: "quiet" };

export const eventBadge = (event) =>
  badge(
    TONES[event.severity] ?? "quiet",
    EVENT_KINDS[event.kind] ?? event.kind,
    event.severity === "info" ? null : event.severity,
  );

export const eventTime = (event) =>
  h(
    "time",
    { datetime: new Date(event.unix * 1000).toISOString(), title: new Date(event.unix * 1000).toLocaleString() },
    moment(event.unix, store.now()),
  );

const COLUMNS = [
  { key: "unix", title: "Time", class: "col-time", cell: eventTime },
  { key: "ago", title: "Age", num: true, class: "wide-2", cell: (event) => ago(store.now() - event.unix) },
  { key: "kind", title: "Kind", class: "col-kind", still: true, cell: eventBadge },
  { key: "text", title: "What happened", class: "col-text", head: true, still: true, cell: what },
];

function what(event) {
  const details = Object.entries(event.details ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!details.length) return foreign(event.text, { title: null });
  return h(
    "details",
    { class: "event-details" },
    h("summary", null, foreign(event.text, { title: null })),
    h(
      "dl",
      null,
      details.map(([key, value]) =>
        h(
          "div",
          null,
          h("dt", null, key.replaceAll("_", " ")),
          h("dd", null, foreign(typeof value === "object" ? JSON.stringify(value) : String(value))),
        ),
      ),
    ),
  );
}

export function eventsView({ params }) {
  const list = new ListView(
    {
      id: "events",
      caption: "Events",
      path: "events",
      page: "events",
      columns: COLUMNS,
      noun: ["event", "events"],
      search: "Search what happened",
      filter: { name: "kind", label: "Kind of event", options: [["", "All kinds"], ...Object.entries(EVENT_KINDS)] },
      row: (event) => ({ key: `${event.id} ${event.unix}`, dataset: { event: String(event.id), kind: event.kind } }),
      empty: (filtered) =>
        filtered
          ? empty("No event matches", "Nothing of the kind has happened since the proxy started.")
          : empty("Nothing has happened yet", "Lost pools, failovers, bans and blocks are listed here."),
    },
    params,
  );
  const end = store.on("events", () => !document.hidden && list.refresher.now());
  return {
    element: h("div", null, heading("Events"), list.element),
    title: "Events",
    update() {},
    destroy: () => {
      end();
      list.destroy();
    },
  };
}
