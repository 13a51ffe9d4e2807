// The strip on top of the overview: pool, hashrate, workers, shares, last job.

import { foreign, h, replace, setAttr, setText } from "../dom.js";
import { count, duration, hashrate, hashrateParts, NONE, percent } from "../format.js";
import { store } from "../store.js";
import { POOL_STATES } from "../words.js";

const JOB_OLD_SECONDS = 300; // pools send one each 30 to 60 s, also without a new block
const REJECTS_MANY = 0.02;
const REJECTS_BAD = 0.1;

export class Strip {
  constructor() {
    this.pool = new Tile("Pool", "pool-state", "tile-pool");
    this.rate = new Tile("Hashrate, last minute", "hashrate", "tile-rate");
    this.workers = new Tile("Workers online", "workers-online");
    this.shares = new Tile("Shares accepted", "accepted");
    this.job = new Tile("Last job", "job-age", "tile-job");
    this.silent = h("a", { href: "#/workers?state=silent", dataset: { field: "workers-silent" } });
    this.gone = h("a", { href: "#/workers?state=gone", dataset: { field: "workers-gone" } });
    this.workers.below(this.silent, this.gone);
    this.rejected = h("span", { dataset: { field: "rejected" } });
    this.ratio = h("span", { class: "part" });
    this.shares.below(h("span", { class: "part" }, this.rejected, " rejected"), this.ratio);
    this.element = h(
      "section",
      { class: "strip card", "aria-label": "At a glance" },
      [this.pool, this.rate, this.workers, this.shares, this.job].map((tile) => tile.element),
    );
  }

  update(summary) {
    this.#pool(summary.pool);
    const { number, unit } = hashrateParts(summary.hashrate["1m"]);
    this.rate.value(number, summary.hashrate["1m"], unit);
    this.rate.texts(`${hashrate(summary.hashrate["1h"])} over 1 h`, `${hashrate(summary.hashrate["24h"])} over 24 h`);
    this.#workers(summary.workers);
    this.#shares(summary.shares);
    this.#job(summary.pool);
  }

  #pool(pool) {
    const [text, tone] = POOL_STATES[pool.state] ?? [pool.state, "quiet"];
    this.pool.value(text, pool.state);
    this.pool.tone(pool.is_backup && pool.state === "up" ? "warn" : tone);
    const since = pool.since_unix === null ? "" : `for ${duration(store.now() - pool.since_unix)}`;
    const name = foreign(pool.name ?? "");
    const reason = why(pool);
    this.pool.known(JSON.stringify([pool.name, since, reason]), () => [
      name,
      since ? h("span", { class: "part" }, since) : null,
      reason
        ? h(
            "span",
            { class: `part tone-${pool.is_backup && pool.state === "up" ? "warn" : tone}` },
            foreign(reason, { title: null }),
          )
        : null,
    ]);
  }

  #workers(workers) {
    this.workers.value(count(workers.online), workers.online);
    setText(this.silent, `${count(workers.silent)} silent`);
    setText(this.gone, `${count(workers.gone)} gone`);
    setAttr(this.silent, "class", workers.silent ? "part tone-warn" : "part");
    setAttr(this.gone, "class", workers.gone ? "part tone-bad" : "part");
    setAttr(this.silent, "data-value", workers.silent);
    setAttr(this.gone, "data-value", workers.gone);
  }

  #shares(shares) {
    const all = shares.accepted + shares.rejected;
    const ratio = all ? shares.rejected / all : null;
    this.shares.value(count(shares.accepted), shares.accepted);
    setText(this.rejected, count(shares.rejected));
    setAttr(this.rejected, "data-value", shares.rejected);
    setText(this.ratio, ratio === null ? "" : percent(ratio));
    setAttr(
      this.ratio,
      "class",
      ratio > REJECTS_BAD ? "part tone-bad" : ratio > REJECTS_MANY ? "part tone-warn" : "part",
    );
  }

  #job(pool) {
    const age = pool.seconds_since_job;
    this.job.value(duration(age === null ? null : Math.floor(age)), age);
    this.job.tone(age !== null && age > JOB_OLD_SECONDS ? "warn" : "");
    this.job.texts(
      age === null
        ? pool.state === "up"
          ? "no job from the pool yet"
          : "no job from a pool"
        : age > JOB_OLD_SECONDS
          ? "old: the pool may be stuck"
          : "ago, from the pool",
    );
  }
}

function why(pool) {
  if (pool.state === "up") return pool.is_backup ? "a backup pool" : "";
  return pool.reason || (pool.state === "idle" ? "no miner needs it now" : "");
}

/** A title, one large value and a quiet line beneath. */
class Tile {
  constructor(title, field, extra = "") {
    this.number = h("span", { dataset: { field } });
    this.unit = h("span", { class: "tile-unit" });
    this.line = h("p", { class: "tile-line" });
    this.large = h(
      "p",
      { class: "tile-value" },
      h("span", { class: "dot", "aria-hidden": "true" }),
      this.number,
      this.unit,
    );
    this.element = h("div", { class: `tile ${extra}` }, h("h2", { class: "tile-title" }, title), this.large, this.line);
    this.value(NONE, "");
  }

  value(text, raw, unit = "") {
    // the unit belongs to the field's text, so that what reads the field reads both
    if (this.number.firstChild?.data !== text || this.unit.textContent !== unit) {
      replace(this.number, text, unit ? ["\u00a0", this.unit] : null);
      setText(this.unit, unit);
    }
    setAttr(this.number, "data-value", raw === null ? "" : raw);
  }

  tone(tone) {
    setAttr(this.large, "class", `tile-value ${tone ? "tone-" + tone : ""}`);
  }

  below(...nodes) {
    replace(this.line, nodes);
  }

  texts(...texts) {
    this.known(JSON.stringify(texts), () => texts.map((text) => h("span", { class: "part" }, text)));
  }

  /** Built anew only when what it is built from has changed. */
  known(key, build) {
    if (this.key === key) return;
    this.key = key;
    replace(this.line, build());
  }
}
