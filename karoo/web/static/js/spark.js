// The small curve of 24 hours in a row of a table.

import { svg } from "./dom.js";
import { hashrate } from "./format.js";

const WIDTH = 96,
  HEIGHT = 24,
  EDGE = 2;

/** `trend`: hashrates, oldest first. Drawn from zero, so that a dip looks as deep as it is. */
export function sparkline(trend) {
  const values = (trend ?? []).map((value) => value ?? 0);
  const top = Math.max(...values, 0);
  const label = top > 0 ? `24 hours: ${hashrate(Math.min(...values))} to ${hashrate(top)}` : "24 hours: nothing";
  const image = svg("svg", {
    class: "spark",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": label,
    preserveAspectRatio: "none",
  });
  const x = (at) => EDGE + (at * (WIDTH - 2 * EDGE)) / Math.max(values.length - 1, 1);
  const y = (value) => HEIGHT - EDGE - (top > 0 ? (value / top) * (HEIGHT - 2 * EDGE) : 0);
  const points = values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  if (top > 0)
    image.append(svg("polygon", { points: `${EDGE},${HEIGHT - EDGE} ${points} ${WIDTH - EDGE},${HEIGHT - EDGE}` }));
  image.append(
    svg("polyline", { points: top > 0 ? points : `${EDGE},${HEIGHT - EDGE} ${WIDTH - EDGE},${HEIGHT - EDGE}` }),
  );
  return image;
}
