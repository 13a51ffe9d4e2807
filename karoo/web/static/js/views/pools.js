// #/pools: the pool in use, the backups, each connection; and how fast the pool answers.

import { get } from "../api.js";
import { Chart } from "../chart.js";
import { Curves } from "../curves.js";
import { foreign, h, replace } from "../dom.js";
import { count, difficulty, duration, milliseconds, neededDifficulty, NONE } from "../format.js";
import { address, badge, Facts, heading } from "../parts.js";
import { Refresher } from "../refresh.js";
import { store } from "../store.js";
import { Table } from "../table.js";
import { POOL_STATES } from "../words.js";

const COLUMNS = [
  { key: "number", title: "No.", num: true, class: "wide-1", cell: (line) => String(line.number) },
  { key: "address", title: "Address", head: true, cell: (line) => address(line.address ?? NONE) },
  { key: "up", title: "State", cell: (line) => badge(line.up ? "ok" : "bad", line.up ? "Up" : "Down") },
  {
    key: "up_seconds",
    title: "Up for",
    num: true,
    class: "wide-1",
    cell: (line) => duration(line.up ? line.up_seconds : null),
  },
  { key: "sessions", title: "Sessions", num: true, cell: (line) => count(line.sessions) },
  {
    key: "difficulty",
    title: "Difficulty",
    num: true,
    class: "wide-1",
    cell: (line) => neededDifficulty(line.difficulty),
  },
  { key: "owed_answers", title: "Answers due", num: true, class: "wide-2", cell: (line) => count(line.owed_answers) },
  { key: "held_shares", title: "Shares held", num: true, class: "wide-2", cell: (line) => count(line.held_shares) },
  {
    key: "extranonce1",
    title: "Extranonce",
    class: "wide-3",
    cell: (line) => h("code", null, `${line.extranonce1 ?? NONE} + ${line.extranonce2_size ?? NONE}`),
  },
  {
    key: "version_mask",
    title: "Version mask",
    class: "wide-3",
    cell: (line) => h("code", null, line.version_mask || NONE),
  },
  {
    key: "prefixes",
    title: "Places taken",
    num: true,
    class: "wide-3",
    cell: (line) => (line.prefixes ? `${count(line.prefixes.held)} of ${difficulty(line.prefixes.capacity)}` : NONE),
  },
];

export function poolsView() {
  const cards = new Map();
  const box = h("div", { class: "pools" });
  const chart = new Chart({
    title: "The pool's answers",
    height: 180,
    format: milliseconds,
    scale: () => ({ divisor: 1, unit: "ms" }),
    series: [{ metric: "latency", label: "Wait for the pool's verdict", colour: "--checked", fill: true }],
    nothing: "No verdict of the pool yet. The curve begins with the first share that is good enough for it.",
  });
  const curves = new Curves("How fast the pool answers", [chart]);
  const list = new Refresher(async (signal) => show(box, cards, await load(box, signal)), 5000);
  return {
    element: h("div", null, heading("Pools"), box, curves.element),
    title: "Pools",
    update: (summary) => curves.update(summary),
    destroy() {
      curves.destroy();
      list.stop();
    },
  };
}

async function load(box, signal) {
  try {
    return (await get("pools", {}, signal)).items;
  } catch (error) {
    if (!signal.aborted && !box.querySelector("[data-pool]")) replace(box, h("p", { class: "empty" }, error.message));
    throw error;
  }
}

function show(box, cards, pools) {
  if (!box.querySelector("[data-pool]")) box.replaceChildren();
  for (const pool of pools) {
    if (!cards.has(pool.index)) {
      cards.set(pool.index, new PoolCard(pool));
      box.append(cards.get(pool.index).element);
    }
    cards.get(pool.index).show(pool);
  }
  for (const [index, one] of cards) {
    if (pools.some((pool) => pool.index === index)) continue;
    one.element.remove();
    cards.delete(index);
  }
}

class PoolCard {
  constructor(pool) {
    this.name = h("h2");
    this.state = h("div", { class: "pool-state" });
    this.reason = h("p", { class: "pool-reason" });
    this.facts = new Facts({
      role: "Role",
      user: "User",
      since: "In this state for",
      sessions: "Sessions",
      way: "Way",
    });
    this.table = new Table({
      id: `connections-${pool.index}`,
      caption: `Connections to ${pool.name}`,
      columns: COLUMNS,
      row: (line) => ({ key: line.number, dataset: { connection: String(line.number) } }),
    });
    this.element = h(
      "section",
      { class: "card pool", dataset: { pool: String(pool.index) } },
      h("div", { class: "card-head" }, this.name, this.state),
      this.reason,
      this.facts.element,
      this.table.element,
    );
  }

  show(pool) {
    const [text, tone] = POOL_STATES[pool.state] ?? [pool.state, "quiet"];
    replace(this.name, foreign(pool.name));
    replace(this.state, badge(tone, text));
    this.reason.hidden = !pool.reason;
    replace(this.reason, foreign(pool.reason ?? "", { title: null }));
    this.facts.set("role", pool.index === 0 ? "Main pool" : `Backup ${pool.index}`);
    replace(this.facts.at("user"), foreign(pool.user || NONE));
    this.facts.set("since", pool.since_unix === null ? NONE : duration(store.now() - pool.since_unix));
    this.facts.set("sessions", count(pool.sessions));
    this.facts.set(
      "way",
      [pool.tls ? "TLS" : "plain TCP", pool.socks ? "through a SOCKS proxy" : ""].filter(Boolean).join(", "),
    );
    this.table.element.hidden = pool.connections.length === 0;
    this.table.show(pool.connections);
  }
}
