// The cards beneath the curve: shares and why some were refused, checked against paid, the pool.

import { foreign, h, replace, setAttr, setText } from "../dom.js";
import { count, difficulty, hashrate, milliseconds, NONE, percent } from "../format.js";
import { card, Facts } from "../parts.js";
import { reasonWords } from "../words.js";

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

const SPANS = { "1m": "1 min", "15m": "15 min", "1h": "1 h", "24h": "24 h" };

/** Hashrates over four spans of time, as checked here and as paid by the pool. */
export class Rates {
  constructor(caption) {
    this.rows = Object.entries(SPANS).map(([key, text]) => {
      const cells = [0, 1, 2].map(() => h("td", { class: "num" }));
      return { key, cells, element: h("tr", null, h("th", { scope: "row" }, text), cells) };
    });
    const head = ["Over", "Checked", "Paid", "Ratio"].map((text, at) =>
      h("th", { scope: "col", class: at ? "num" : null }, text),
    );
    this.element = h(
      "table",
      { class: "plain rates" },
      h("caption", { class: "sr" }, caption),
      h("thead", null, h("tr", null, head)),
      h(
        "tbody",
        null,
        this.rows.map((row) => row.element),
      ),
    );
  }

  show(checked, paid) {
    for (const { key, cells } of this.rows) {
      setText(cells[0], hashrate(checked[key]));
      setText(cells[1], hashrate(paid[key]));
      setText(cells[2], checked[key] > 0 ? ((paid[key] / checked[key]) * 100).toFixed(1) + "\u00a0%" : NONE);
    }
  }
}

export class PaidCard {
  constructor() {
    this.rates = new Rates("Hashrate checked here and paid by the pool");
    this.element = card(
      "Checked and paid",
      this.rates.element,
      h(
        "p",
        { class: "hint" },
        "Checked is what the miners proved to this proxy, paid what the pool accepted. Over minutes they differ by " +
          "chance; where they differ for a day, the pool refuses work.",
      ),
    );
  }

  update(summary) {
    this.rates.show(summary.hashrate, summary.hashrate_paid);
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
    this.facts.set("difficulty", difficulty(pool.difficulty));
    this.facts.set("network", difficulty(pool.network_difficulty));
    this.facts.set("connections", count(pool.connections));
    this.facts.set("latency", latency ? milliseconds(latency.p50) : NONE);
    setAttr(
      this.facts.at("latency"),
      "title",
      latency ? `95 % within ${milliseconds(latency.p95)}, 99 % within ${milliseconds(latency.p99)}` : null,
    );
    if (latency)
      setText(this.facts.at("latency"), `${milliseconds(latency.p50)}, slowest ${milliseconds(latency.p99)}`);
  }
}
