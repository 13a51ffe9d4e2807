// #/: what an operator wants to know in five seconds, and beneath it why.

import { Chart, rangePicker, savedRange } from "../chart.js";
import { EventLog } from "../eventlog.js";
import { foreign, h, replace, setText } from "../dom.js";
import { hashrate, scaleOf } from "../format.js";
import { card, connectGuide } from "../parts.js";
import { Refresher } from "../refresh.js";
import { eventBadge, eventTime } from "./events.js";
import { PaidCard, PoolCard, SharesCard } from "./overview_cards.js";
import { Strip } from "./overview_strip.js";

const TOLD = 8; // happenings
const CURVE_MS = { "1h": 10000, "24h": 30000, "7d": 60000, "30d": 60000 };

export function overviewView() {
  return new Overview();
}

class Overview {
  title = "";

  constructor() {
    this.strip = new Strip();
    this.parts = [this.strip, new SharesCard(), new PaidCard(), new PoolCard()];
    this.welcome = h("section", { class: "card welcome", "aria-label": "Connect your first miner", hidden: true });
    this.range = savedRange();
    const curve = this.#curve();
    const timeline = this.#timeline();
    const [strip, shares, paid, pool] = this.parts.map((part) => part.element);
    this.element = h(
      "div",
      { class: "overview" },
      h("h1", { class: "sr", tabindex: "-1" }, "Overview"),
      strip,
      this.welcome,
      curve,
      h("div", { class: "grid" }, shares, paid, timeline, pool),
    );
    this.log = new EventLog(() => this.#told());
    this.curves = new Refresher((signal) => this.#load(signal), CURVE_MS[this.range]);
  }

  #curve() {
    this.chart = new Chart({
      title: "Hashrate",
      height: 280,
      format: hashrate,
      scale: (largest) => scaleOf(largest),
      series: [
        { metric: "hashrate", label: "Checked", colour: "--checked", fill: true },
        { metric: "hashrate_paid", label: "Paid", colour: "--paid" },
      ],
    });
    const picker = rangePicker(this.range, (range) => {
      this.range = range;
      this.curves.everyMs = CURVE_MS[range];
      this.curves.now();
    });
    this.fault = h("p", { class: "hint tone-bad", hidden: true });
    return h(
      "section",
      { class: "card", "aria-label": "Hashrate" },
      h("div", { class: "card-head" }, h("h2", null, "Hashrate"), picker),
      this.chart.element,
      this.fault,
    );
  }

  async #load(signal) {
    let fault = "";
    try {
      await this.chart.load(this.range, signal);
    } catch (error) {
      if (signal.aborted) return;
      fault = `The curve could not be fetched. ${error.message}`;
    }
    this.fault.hidden = !fault;
    setText(this.fault, fault);
  }

  #timeline() {
    this.counts = h(
      "p",
      { class: "card-aside" },
      h("span", { dataset: { field: "failovers" } }),
      h("span", { dataset: { field: "bans" } }),
    );
    this.events = h("ol", { class: "timeline", id: "timeline" });
    const section = card(
      "Timeline",
      this.events,
      h("p", { class: "more" }, h("a", { href: "#/events" }, "All events")),
    );
    section.firstChild.after(this.counts);
    return section;
  }

  #told() {
    this.chart.mark(this.log.marks(), "▾ lost pools, failovers, bans, blocks");
    const latest = this.log.items.slice(0, TOLD);
    replace(
      this.events,
      latest.length === 0
        ? h("li", { class: "quiet" }, "Nothing yet: lost pools, failovers, bans and blocks will stand here.")
        : latest.map((event) =>
            h(
              "li",
              { dataset: { kind: event.kind } },
              eventTime(event),
              eventBadge(event),
              foreign(event.text, { title: null }),
            ),
          ),
    );
  }

  update(summary) {
    for (const part of this.parts) part.update(summary);
    setText(this.counts.firstChild, summary.failovers === 1 ? "1 failover" : `${summary.failovers} failovers`);
    setText(this.counts.lastChild, summary.bans === 1 ? "1 ban in force" : `${summary.bans} bans in force`);
    this.#greet(summary);
  }

  /** Nobody has ever mined here: say how to begin. */
  #greet(summary) {
    const nobody = Object.values(summary.workers).every((number) => number === 0);
    if (nobody && !this.welcome.firstChild) {
      replace(
        this.welcome,
        h("h2", null, "Connect your first miner"),
        h("p", null, "No miner has come yet. Enter this in its settings; it appears here within seconds."),
        connectGuide(summary.stratum),
      );
    }
    this.welcome.hidden = !nobody;
  }

  destroy() {
    this.curves.stop();
    this.log.destroy();
    this.chart.destroy();
  }
}
