// The ranges of time that curves are shown over, and which of them the reader chose.

import { h } from "./dom.js";

const RANGES = { "1h": "1 h", "24h": "24 h", "7d": "7 d", "30d": "30 d" };
export const SPOKEN = {
  "1h": "the last hour",
  "24h": "the last 24 hours",
  "7d": "the last 7 days",
  "30d": "the last 30 days",
};
export const SECONDS = { "1h": 3600, "24h": 86400, "7d": 604800, "30d": 2592000 };
const KEY = "karoo.range";

/** Which of the ranges the reader chose last; a page on the wall keeps it over a reload. */
export function savedRange() {
  try {
    const range = localStorage.getItem(KEY);
    return range in RANGES ? range : "24h";
  } catch {
    return "24h";
  }
}

function saveRange(range) {
  try {
    localStorage.setItem(KEY, range);
  } catch {
    // private windows have no storage; the choice then lasts as long as the page
  }
}

/** Buttons 1 h, 24 h, ...; `choose(range)`. */
export function rangePicker(range, choose) {
  const buttons = Object.entries(RANGES).map(([key, text]) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(key === range),
        dataset: { range: key },
        on: {
          click: () => {
            saveRange(key);
            for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.range === key));
            choose(key);
          },
        },
      },
      text,
    ),
  );
  return h("div", { class: "segments", role: "group", "aria-label": "Range of time" }, buttons);
}
