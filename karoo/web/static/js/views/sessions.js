// #/sessions: the lines that are open now, one for each miner that is connected.

import { foreign, h } from "../dom.js";
import { bytes, count, difficulty, duration, NONE } from "../format.js";
import { ListView } from "../listview.js";
import { address, empty, heading, workerAnchor } from "../parts.js";

export const SESSION_COLUMNS = [
  {
    key: "id",
    title: "No.",
    long: "number",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (session) => String(session.id),
  },
  {
    key: "address",
    title: "Address",
    sort: true,
    head: true,
    still: true,
    cell: (session) => address(session.address),
  },
  {
    key: "worker",
    title: "Worker",
    sort: true,
    class: "col-name",
    cell: (session) => (session.worker ? workerAnchor(session.worker) : NONE),
  },
  {
    key: "agent",
    title: "Device",
    sort: true,
    class: "wide-2 col-device",
    cell: (session) => (session.agent ? foreign(session.agent) : ""),
  },
  {
    key: "listener",
    title: "Listener",
    class: "wide-2 col-device",
    cell: (session) => foreign(session.listener),
  },
  {
    key: "difficulty",
    title: "Difficulty",
    sort: true,
    num: true,
    class: "wide-1",
    cell: (session) => difficulty(session.difficulty),
  },
  {
    key: "accepted",
    title: "Accepted",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (session) => count(session.accepted),
  },
  {
    key: "rejected",
    title: "Rejected",
    sort: true,
    num: true,
    class: "wide-2",
    cell: (session) => count(session.rejected),
  },
  {
    key: "connected_seconds",
    title: "Connected",
    sort: true,
    num: true,
    cell: (session) => duration(session.connected_seconds),
  },
  {
    key: "silent_seconds",
    title: "Silent for",
    sort: true,
    num: true,
    class: "wide-1",
    cell: (session) => duration(session.silent_seconds),
  },
  {
    key: "backlog_bytes",
    title: "Backlog",
    sort: true,
    num: true,
    class: "wide-3",
    cell: (session) => bytes(session.backlog_bytes),
  },
  { key: "prefix", title: "Prefix", class: "wide-4", cell: (session) => h("code", null, session.prefix) },
];

export const sessionRow = (session) => ({ key: session.id, dataset: { session: String(session.id) } });

export function sessionsView({ params }) {
  const list = new ListView(
    {
      id: "sessions",
      caption: "Sessions",
      path: "sessions",
      page: "sessions",
      columns: SESSION_COLUMNS,
      sort: "connected_seconds",
      order: "desc",
      noun: ["session", "sessions"],
      search: "Search address, worker or device",
      row: sessionRow,
      empty: nothing,
    },
    params,
  );
  return {
    element: h("div", null, heading("Sessions"), list.element),
    title: "Sessions",
    update() {},
    destroy: () => list.destroy(),
  };
}

function nothing(filtered) {
  if (filtered) return empty("No session matches", "Try another word.");
  return empty(
    "No miner is connected",
    "Each open line of a miner is listed here.",
    h("p", null, h("a", { href: "#/workers" }, "How to connect a miner")),
  );
}
