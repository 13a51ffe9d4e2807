// #/: what an operator wants to know in five seconds, and beneath it why.

import { Chart } from "../chart.js";
import { Curves } from "../curves.js";
import { foreign, h, replace, setText } from "../dom.js";
import { EventLog } from "../eventlog.js";
import { hashrate, plural, scaleOf } from "../format.js";
import { card, connectGuide } from "../parts.js";
import { eventBadge, eventTime } from "./events.js";
import { PaidCard, PoolCard, SharesCard } from "./overview_cards.js";
import { Strip } from "./overview_strip.js";

const TOLD = 8; // happenings

export function overviewView() {
  return new Overview();
}

class Overview {
  title = "";

  constructor() {
    this.strip = new Strip();
    this.parts = [this.strip, new SharesCard(), new PaidCard(), new PoolCard()];
    this.welcome = h("section", { class: "card welcome", "aria-label": "Connect your first miner", hidden: true });
    this.curves = this.#curves();
    const timeline = this.#timeline();
    const [strip, shares, paid, pool] = this.parts.map((part) => part.element);
    this.element = h(
      "div",
      { class: "overview" },
      h("h1", { class: "sr", tabindex: "-1" }, "Overview"),
      strip,
      this.welcome,
      this.curves.element,
      h("div", { class: "grid" }, shares, paid, timeline, pool),
    );
    this.log = new EventLog(() => this.#told());
  }

  #curves() {
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
    return new Curves("Hashrate", [this.chart]);
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
    this.curves.update(summary);
    setText(this.counts.firstChild, plural(summary.failovers, "failover"));
    setText(this.counts.lastChild, plural(summary.bans, "ban in force", "bans in force"));
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
    this.curves.destroy();
    this.log.destroy();
  }
}
