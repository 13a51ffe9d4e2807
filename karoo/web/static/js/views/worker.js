// #/workers/<name>: one worker: its curves, its lines, and its last shares explained.

import { get } from "../api.js";
import { Chart } from "../chart.js";
import { Curves } from "../curves.js";
import { copyButton, foreign, h, replace } from "../dom.js";
import { ago, answerTime, count, difficulty, duration, hashrate, milliseconds, moment, percent } from "../format.js";
import { scaleOf, shortened } from "../format.js";
import { badge, card, empty, Facts, stateBadge } from "../parts.js";
import { Refresher } from "../refresh.js";
import { store } from "../store.js";
import { Table } from "../table.js";
import { explain } from "../words.js";
import { Reasons } from "./overview_cards.js";
import { paidDifficulty, Rates } from "./rates.js";
import { SESSION_COLUMNS, sessionRow } from "./sessions.js";

const SHARES = [
  { key: "unix", title: "Time", class: "col-time", still: true, cell: (share) => moment(share.unix, store.now()) },
  { key: "verdict", title: "Verdict", class: "col-verdict", still: true, cell: verdict },
  { key: "difficulty", title: "Found", num: true, still: true, cell: (share) => difficulty(share.difficulty) },
  { key: "needed", title: "Needed", num: true, still: true, cell: (share) => difficulty(share.needed) },
  {
    key: "job",
    title: "Job",
    class: "wide-2",
    still: true,
    cell: (share) => h("code", null, foreign(share.job ?? "")),
  },
  {
    key: "latency_ms",
    title: "Latency",
    num: true,
    class: "wide-2",
    still: true,
    cell: (share) => milliseconds(share.latency_ms),
  },
  { key: "words", title: "What it means", class: "col-text col-full", head: true, still: true, cell: meaning },
];

function verdict(share) {
  const by = share.by === "pool" ? "pool" : "here";
  return share.verdict === "accepted" ? badge("ok", `Accepted, ${by}`) : badge("bad", `Rejected, ${by}`);
}

function meaning(share) {
  return h(
    "span",
    { class: share.verdict === "accepted" ? "quiet" : null },
    foreign(explain(share), { title: null }),
    share.words ? [" The pool’s words: ", h("q", null, foreign(share.words, { title: null }))] : null,
  );
}

export function workerView({ name }) {
  return new WorkerView(name);
}

class WorkerView {
  constructor(name) {
    this.name = this.title = name;
    this.body = h("div", { class: "worker-body" });
    this.heading = h("h1", { class: "worker-name", tabindex: "-1" }, foreign(name));
    this.state = h("span", { class: "worker-state" });
    this.device = h("span", { class: "worker-device quiet" });
    this.whole = h(
      "details",
      { class: "worker-whole", hidden: true },
      h("summary", null, "The whole name"),
      h("p", null, foreign(name, { title: null })),
      copyButton(name, "the name"),
    );
    this.instead = h("div", { hidden: true });
    this.element = h(
      "section",
      { id: "worker", dataset: { name }, "aria-label": `Worker ${shortened(name, 60)}` },
      h("p", { class: "crumb" }, h("a", { href: "#/workers" }, "All workers")),
      h("div", { class: "page-head" }, this.heading, this.state, this.device, this.whole),
      this.instead,
      this.body,
    );
    this.curves = this.#curves();
    this.#build();
    this.detail = new Refresher((signal) => this.#load(signal), 5000);
  }

  #curves() {
    const history = { worker: this.name, sync: "worker" };
    const rate = new Chart({
      ...history,
      title: "Hashrate",
      height: 220,
      format: hashrate,
      scale: (most) => scaleOf(most),
      series: [
        { metric: "hashrate", label: "Checked", colour: "--checked", fill: true },
        { metric: "hashrate_paid", label: "Paid", colour: "--paid" },
      ],
    });
    const shares = {
      ...history,
      format: count,
      scale: (most) => (most < 1000 ? { divisor: 1, unit: "shares" } : { divisor: 1000, unit: "thousand shares" }),
      nothing: "None recorded in this time.",
    };
    const good = new Chart({
      ...shares,
      title: "Shares accepted",
      height: 150,
      series: [{ metric: "accepted", label: "Accepted", colour: "--ok", bars: true }],
    });
    const bad = new Chart({
      ...shares,
      title: "Shares rejected",
      height: 150,
      series: [{ metric: "rejected", label: "Rejected", colour: "--bad", bars: true }],
    });
    const twin = h(
      "div",
      { class: "twin" },
      h("div", null, h("h3", null, "Shares accepted"), good.element),
      h("div", null, h("h3", null, "Shares rejected"), bad.element),
    );
    return new Curves("Hashrate", [rate, good, bad], [rate.element, twin]);
  }

  #build() {
    this.facts = new Facts(
      {
        accepted: "Accepted",
        rejected: "Rejected",
        last: "Last share",
        cadence: "A share every",
        difficulty: "Difficulty",
        work: "Work accepted",
        forwarded: "Sent to the pool",
        taken: "Taken by the pool",
        refused: "Refused by the pool",
        latency: "Pool answers in",
        blocks: "Blocks found",
        first: "First seen",
      },
      { fields: { accepted: "worker-accepted", rejected: "worker-rejected" } },
    );
    this.rates = new Rates("Hashrate of this worker, checked here and paid by the pool");
    this.reasons = new Reasons();
    this.sessions = new Table({
      id: "worker-sessions",
      caption: "Sessions of this worker",
      columns: SESSION_COLUMNS.filter((column) => column.key !== "worker"),
      row: sessionRow,
    });
    this.noSessions = h("p", { class: "quiet", hidden: true }, "Not connected now.");
    this.shares = new Table({
      id: "shares",
      caption: "The last shares, the newest first",
      columns: SHARES,
      stacked: true,
      row: shareRow,
    });
    this.noShares = h("p", { class: "quiet", hidden: true }, "No share since the proxy started.");
    replace(
      this.body,
      this.curves.element,
      h(
        "div",
        { class: "grid" },
        card("Figures", this.facts.element),
        card("Checked and paid", this.rates.element, this.reasons.element),
      ),
      card("Sessions", this.sessions.element, this.noSessions),
      card("Last shares", this.shares.element, this.noShares),
    );
  }

  async #load(signal) {
    let worker;
    try {
      worker = await get("worker", { name: this.name }, signal);
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
      return;
    }
    if (!signal.aborted) this.#show(worker);
  }

  #failed({ status, message }) {
    this.element.classList.add("outdated");
    if (status !== 404 && this.shown) return;
    this.body.hidden = true;
    this.instead.hidden = false;
    replace(
      this.instead,
      status === 404
        ? empty(
            "There is no worker of this name",
            "It may never have sent a share, or its accounts are long gone.",
            h("p", null, h("a", { href: "#/workers" }, "All workers")),
          )
        : h("p", { class: "empty" }, message),
    );
  }

  #show(worker) {
    this.shown = true;
    this.element.classList.remove("outdated");
    this.body.hidden = false;
    this.instead.hidden = true;
    replace(this.state, stateBadge(worker.state));
    if (this.device.textContent !== worker.device) replace(this.device, foreign(worker.device));
    this.#figures(worker);
    this.#paid(worker);
    this.reasons.show(worker.rejected_by_reason, worker.accepted + worker.rejected);
    this.sessions.show(worker.session_items);
    this.sessions.element.hidden = worker.session_items.length === 0;
    this.noSessions.hidden = worker.session_items.length > 0;
    this.shares.show(worker.recent_shares);
    this.shares.element.hidden = worker.recent_shares.length === 0;
    this.noShares.hidden = worker.recent_shares.length > 0;
  }

  #paid(worker) {
    const summary = store.summary;
    const own = worker.pool_accepted > 0 ? worker.pool_difficulty_accepted / worker.pool_accepted : null;
    this.rates.show(worker, {
      work: worker.difficulty_accepted,
      difficulty: own ?? (summary && paidDifficulty(summary)),
      algorithm: summary?.algorithm,
    });
  }

  #figures(worker) {
    const all = worker.accepted + worker.rejected;
    const figures = {
      accepted: count(worker.accepted),
      rejected: all ? `${count(worker.rejected)} (${percent(worker.reject_ratio)})` : count(worker.rejected),
      last: ago(worker.seconds_since_share),
      cadence: duration(worker.cadence_seconds === null ? null : Math.round(worker.cadence_seconds)),
      difficulty: difficulty(worker.difficulty),
      work: difficulty(worker.difficulty_accepted),
      forwarded: count(worker.forwarded),
      taken: count(worker.pool_accepted),
      refused: count(worker.pool_rejected),
      latency: answerTime(worker.pool_latency_ms),
      blocks: count(worker.blocks),
      first: moment(worker.first_seen_unix, store.now()),
    };
    for (const [key, text] of Object.entries(figures)) this.facts.set(key, text);
  }

  update(summary) {
    this.curves.update(summary);
    const cut = this.heading.scrollHeight > this.heading.clientHeight + 1;
    if (this.whole.hidden === cut) this.whole.hidden = !cut;
  }

  destroy() {
    this.detail.stop();
    this.curves.destroy();
  }
}

/** Shares have no number: two of the same moment are told apart by what else is known of them. */
function shareRow(share) {
  return {
    key: JSON.stringify([share.unix, share.job, share.verdict, share.reason, share.difficulty]),
    dataset: { verdict: share.verdict },
  };
}
