// The card of a page's curves, with the range that they share. Fetched again and again, but only where the proxy keeps
// any.

import { h } from "./dom.js";
import { rangePicker, savedRange } from "./ranges.js";
import { Refresher } from "./refresh.js";

const EVERY_MS = { "1h": 10000, "24h": 30000, "7d": 60000, "30d": 60000 };

/** `inside`: what stands in the card, the charts with it. Nothing is fetched before the first `update(summary)`. */
export class Curves {
  #kept = null;
  #refresher = null;

  constructor(title, charts, inside = charts.map((chart) => chart.element)) {
    this.charts = charts;
    this.range = savedRange();
    this.picker = rangePicker(this.range, (range) => this.#choose(range));
    this.body = h("div", null, inside);
    this.none = h(
      "p",
      { class: "quiet", hidden: true },
      "No curves are kept: set ",
      h("code", null, "accounting.database"),
      " in the configuration.",
    );
    this.element = h(
      "section",
      { class: "card", "aria-label": title },
      h("div", { class: "card-head" }, h("h2", null, title), this.picker),
      this.body,
      this.none,
    );
  }

  update(summary) {
    const kept = Boolean(summary.ledger?.database);
    if (kept === this.#kept) return;
    this.#kept = kept;
    this.picker.hidden = this.body.hidden = !kept;
    this.none.hidden = kept;
    this.#stop();
    if (kept) this.#refresher = new Refresher((signal) => this.#load(signal), EVERY_MS[this.range]);
  }

  #choose(range) {
    this.range = range;
    if (!this.#refresher) return;
    this.#refresher.everyMs = EVERY_MS[range];
    this.#refresher.now();
  }

  #load(signal) {
    return Promise.all(this.charts.map((chart) => chart.load(this.range, signal)));
  }

  #stop() {
    this.#refresher?.stop();
    this.#refresher = null;
  }

  destroy() {
    this.#stop();
    for (const chart of this.charts) chart.destroy();
  }
}
