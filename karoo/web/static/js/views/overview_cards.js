// The cards beneath the curve: shares and why some were refused, checked against paid, the pool.

import { foreign, h, replace } from "../dom.js";
import { answerTime, count, difficulty, neededDifficulty, NONE, percent } from "../format.js";
import { card, Facts } from "../parts.js";
import { reasonWords } from "../words.js";
import { paidDifficulty, Rates } from "./rates.js";

const MOST_REASONS = 6;

export class SharesCard {
  constructor() {
    this.facts = new Facts({
      per_second: "Shares a second",
      below_pool: "Counted here",
      blocks: "Blocks found",
      forwarded: "Sent to the pool",
      pool_accepted: "Taken by the pool",
      pool_rejected: "Refused by the pool",
    });
    this.reasons = new Reasons();
    this.element = card("Shares", this.facts.element, this.reasons.element);
  }

  update({ shares }) {
    for (const key of ["below_pool", "forwarded", "pool_accepted", "pool_rejected", "blocks"])
      this.facts.set(key, count(shares[key]));
    this.facts.set(
      "per_second",
      shares.per_second > 0 && shares.per_second < 10 ? shares.per_second.toFixed(1) : count(shares.per_second),
    );
    this.reasons.show(shares.rejected_by_reason, shares.accepted + shares.rejected);
  }
}

/** Why shares were refused: the most frequent, each with a bar as long as its part. */
export class Reasons {
  constructor() {
    this.list = h("ul", { class: "reasons" });
    this.none = h("p", { class: "quiet" }, "No share has been refused.");
    this.element = h("div", null, h("h3", null, "Why shares were refused"), this.list, this.none);
  }

  show(reasons, all) {
    const sorted = Object.entries(reasons)
      .filter(([, number]) => number > 0)
      .sort((a, b) => b[1] - a[1]);
    const known = JSON.stringify(sorted) + all;
    if (known === this.known) return;
    this.known = known;
    this.none.hidden = sorted.length > 0;
    const top = sorted[0]?.[1] ?? 1;
    const rows = sorted.slice(0, MOST_REASONS).map(([reason, number]) => this.#row(reason, number, number / top, all));
    const rest = sorted.slice(MOST_REASONS).reduce((sum, [, number]) => sum + number, 0);
    if (rest) rows.push(this.#row("other", rest, rest / top, all));
    replace(this.list, rows);
  }

  #row(reason, number, part, all) {
    const { text, note } = reasonWords(reason);
    const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span"));
    bar.firstChild.style.width = `${Math.max(1, Math.min(1, part) * 100)}%`;
    return h(
      "li",
      { dataset: { reason } },
      h(
        "span",
        { class: "reason-text" },
        foreign(text, { title: null }),
        note && note !== text ? [" ", foreign(note, { class: "foreign reason-note" })] : null,
      ),
      h("span", { class: "reason-count" }, count(number)),
      h("span", { class: "reason-part" }, percent(number / all)),
      bar,
    );
  }
}

export class PaidCard {
  constructor() {
    this.rates = new Rates("Hashrate checked here and paid by the pool");
    this.element = card("Checked and paid", this.rates.element);
  }

  update(summary) {
    this.rates.show(summary, {
      work: summary.difficulty.accepted,
      difficulty: paidDifficulty(summary),
      algorithm: summary.algorithm,
    });
  }
}

export class PoolCard {
  constructor() {
    this.facts = new Facts(
      {
        name: "Pool",
        address: "Connected to",
        user: "User",
        difficulty: "Difficulty",
        network: "Network difficulty",
        connections: "Connections",
        latency: "Answers in",
      },
      { form: "rows" },
    );
    this.element = card(
      "Pool",
      this.facts.element,
      h("p", { class: "more" }, h("a", { href: "#/pools" }, "All pools")),
    );
  }

  update({ pool, pool_latency_ms: latency }) {
    for (const [key, text] of [
      ["name", pool.name],
      ["address", pool.address],
      ["user", pool.user],
    ]) {
      const value = this.facts.at(key);
      if (value.textContent !== (text ?? NONE)) replace(value, foreign(text ?? NONE));
    }
    this.facts.set("difficulty", neededDifficulty(pool.difficulty));
    this.facts.set("network", difficulty(pool.network_difficulty));
    this.facts.set("connections", count(pool.connections));
    this.facts.set("latency", answerTime(latency));
  }
}
