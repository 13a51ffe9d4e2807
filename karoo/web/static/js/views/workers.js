// #/workers: all of them, sorted and searched by the server.

import { foreign, h } from "../dom.js";
import { ago, count, difficulty, hashrate, percent } from "../format.js";
import { ListView } from "../listview.js";
import { connectGuide, empty, heading, stateBadge, workerAnchor } from "../parts.js";
import { sparkline } from "../spark.js";
import { WORKER_STATES } from "../words.js";

const COLUMNS = [
  {
    key: "name",
    title: "Worker",
    sort: true,
    head: true,
    still: true,
    class: "col-name",
    cell: (worker) => workerAnchor(worker.name),
  },
  { key: "state", title: "State", sort: true, class: "col-state", cell: (worker) => stateBadge(worker.state) },
  { key: "trend", title: "24 hours", class: "wide-1 col-trend", cell: (worker) => sparkline(worker.trend) },
  {
    key: "hashrate_1m",
    title: "1 min",
    long: "hashrate, 1 min",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (worker) => hashrate(worker.hashrate["1m"]),
  },
  {
    key: "hashrate_1h",
    title: "1 h",
    long: "hashrate, 1 h",
    sort: true,
    num: true,
    cell: (worker) => hashrate(worker.hashrate["1h"]),
  },
  {
    key: "hashrate_24h",
    title: "24 h",
    long: "hashrate, 24 h",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (worker) => hashrate(worker.hashrate["24h"]),
  },
  {
    key: "accepted",
    title: "Accepted",
    sort: true,
    num: true,
    class: "wide-4",
    cell: (worker) => count(worker.accepted),
  },
  {
    key: "reject_ratio",
    title: "Rejected",
    sort: true,
    num: true,
    class: "wide-1",
    cell: (worker) => percent(worker.accepted + worker.rejected ? worker.reject_ratio : null),
  },
  {
    key: "difficulty",
    title: "Difficulty",
    sort: true,
    num: true,
    class: "wide-3",
    cell: (worker) => difficulty(worker.difficulty),
  },
  {
    key: "device",
    title: "Device",
    sort: true,
    class: "wide-3 col-device",
    cell: (worker) => (worker.device ? foreign(worker.device) : ""),
  },
  {
    key: "last_share",
    title: "Last share",
    sort: true,
    num: true,
    class: "col-last",
    cell: (worker) => ago(worker.seconds_since_share),
  },
];

export function workersView({ params }) {
  const guide = h("div");
  const list = new ListView(
    {
      id: "workers",
      caption: "Workers",
      path: "workers",
      page: "workers",
      columns: COLUMNS,
      sort: "name",
      order: "asc",
      noun: ["worker", "workers"],
      search: "Search name or device",
      filter: {
        name: "state",
        label: "State",
        options: [["", "All"], ...Object.entries(WORKER_STATES).map(([state, [text]]) => [state, text])],
      },
      row: (worker) => ({ key: worker.name, dataset: { worker: worker.name } }),
      empty: (filtered) => nothing(filtered, guide),
    },
    params,
  );
  const element = h("div", null, heading("Workers"), list.element);
  return { element, title: "Workers", update, destroy: () => list.destroy() };

  function update(summary) {
    list.filterCounts(counts(summary.workers));
    if (!guide.firstChild) guide.append(connectGuide(summary.stratum));
  }
}

function counts(workers) {
  return { "": Object.values(workers).reduce((sum, number) => sum + number, 0), ...workers };
}

function nothing(filtered, guide) {
  if (filtered) return empty("No worker matches", "Try another word, or another state.");
  return empty("No miner has come yet", "Enter this in your miner's settings; it appears here within seconds.", guide);
}
