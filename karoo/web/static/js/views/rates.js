// Hashrates as checked here and as paid by the pool, and how far chance alone drives the two apart.

import { h, replace, setText } from "../dom.js";
import { hashrate, NONE } from "../format.js";

const SPANS = { "1m": ["1 min", 60], "15m": ["15 min", 900], "1h": ["1 h", 3600], "24h": ["24 h", 86400] };
const HASHES = { scrypt: 2 ** 16 }; // that a share of difficulty 1 takes; where nothing is said, as double SHA-256
const HASHES_SHA256D = 2 ** 32;
const FEWEST = 30; // paid shares, of fewer the ratio tells nothing
const GAP = "\u00a0";

/** The difficulty of the shares that the pool pays, of all together; null while none is known. */
export function paidDifficulty({ difficulty, shares, pool }) {
  return (shares.pool_accepted > 0 ? difficulty.pool_accepted / shares.pool_accepted : pool.difficulty) || null;
}

/** Over four spans of time: checked, paid, and their ratio. */
export class Rates {
  constructor(caption) {
    this.rows = Object.entries(SPANS).map(([key, [text, seconds]]) => {
      const cells = [0, 1, 2].map(() => h("td", { class: "num" }));
      return { key, seconds, cells, element: h("tr", null, h("th", { scope: "row" }, text), cells) };
    });
    const head = ["Over", "Checked", "Paid", "Ratio"].map((text, at) =>
      h("th", { scope: "col", class: at ? "num" : null }, text),
    );
    this.element = h(
      "div",
      null,
      h(
        "table",
        { class: "plain rates" },
        h("caption", { class: "sr" }, caption),
        h("thead", null, h("tr", null, head)),
        h(
          "tbody",
          null,
          this.rows.map((row) => row.element),
        ),
      ),
      h(
        "p",
        { class: "hint" },
        "Checked is what the miners proved to this proxy, paid what the pool accepted. Their ratio strays from " +
          `100${GAP}% by chance, 19 times in 20 by no more than the ± beside it; with fewer than ${FEWEST} shares to ` +
          "be paid it tells nothing. Where it stays lower, the pool refuses work.",
      ),
    );
  }

  /**
   * `of`: {hashrate, hashrate_paid}, each by span; `work`: the difficulty accepted in its whole life, which may be
   * shorter than a span; `difficulty`: of a share that the pool pays, or null.
   */
  show(of, { work, difficulty, algorithm }) {
    for (const { key, seconds, cells } of this.rows) {
      const checked = of.hashrate[key];
      const paid = of.hashrate_paid[key];
      const done = Math.min((checked * seconds) / (HASHES[algorithm] ?? HASHES_SHA256D), work);
      setText(cells[0], hashrate(checked));
      setText(cells[1], hashrate(paid));
      this.#ratio(cells[2], paid / checked, difficulty ? done / difficulty : 0);
    }
  }

  /** `due`: how many shares were to be paid. */
  #ratio(cell, ratio, due) {
    if (!(due >= FEWEST)) {
      setText(cell, NONE);
      return;
    }
    const chance = 200 / Math.sqrt(due); // two standard deviations, per cent
    const text = `${(ratio * 100).toFixed(1)}${GAP}%`;
    const around = `±${GAP}${chance.toFixed(chance < 9.95 ? 1 : 0)}${GAP}%`;
    if (cell.textContent === `${text} ${around}`) return;
    replace(cell, text, " ", h("span", { class: "chance" }, around));
  }
}
