// Numbers as people read them: three significant digits, a unit, never an exponent.

export const NONE = "–"; // for what is not known
const GAP = "\u00a0"; // no line break between a number and its unit
const HASHES = ["H/s", "kH/s", "MH/s", "GH/s", "TH/s", "PH/s", "EH/s", "ZH/s"];
const PLAIN = ["", "k", "M", "G", "T", "P", "E"];

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** How to write values up to this one: {divisor, unit}. */
export function scaleOf(largest, units = HASHES) {
  let step = 0;
  let divisor = 1;
  while (largest / divisor >= 999.5 && step < units.length - 1) {
    divisor *= 1000;
    step += 1;
  }
  return { divisor, unit: units[step] };
}

function digits(value) {
  return value === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
}

function parts(value, units) {
  if (!known(value)) return { number: NONE, unit: "" };
  const { divisor, unit } = scaleOf(Math.abs(value), units);
  const scaled = value / divisor;
  return { number: scaled.toFixed(digits(Math.abs(scaled))), unit };
}

const join = ({ number, unit }) => (unit ? number + GAP + unit : number);

/** {number: "1.23", unit: "TH/s"}, for where the two are set apart. */
export const hashrateParts = (value) => parts(value, HASHES);
export const hashrate = (value) => join(parts(value, HASHES));

/** 512, 65.5 k, 1.2 M, 0.0012 */
export function difficulty(value) {
  if (!known(value)) return NONE;
  if (value > 0 && value < 0.00001) return "<" + GAP + "0.00001";
  if (value < 1) return String(Number(value.toPrecision(2)).toFixed(6)).replace(/\.?0+$/, "");
  if (value < 999.5) return String(Number(value.toPrecision(3)));
  const { number, unit } = parts(value, PLAIN);
  return join({ number: number.includes(".") ? number.replace(/\.?0+$/, "") : number, unit });
}

/** The difficulty that somebody asks for, which is never 0: that stands for one not known yet. */
export const neededDifficulty = (value) => difficulty(value || null);

const COUNT = new Intl.NumberFormat("en");
export const count = (value) => (known(value) ? COUNT.format(Math.round(value)) : NONE);

/** With a capital at its beginning. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Cut after so many characters, for where there is one line only. */
export const shortened = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

/** A ratio of 0..1 as per cent. */
export function percent(ratio) {
  if (!known(ratio)) return NONE;
  const value = ratio * 100;
  if (value === 0 || value === 100) return value + GAP + "%";
  if (value < 0.01) return "<" + GAP + "0.01" + GAP + "%";
  return value.toFixed(value < 10 ? 2 : 1) + GAP + "%";
}

/** "1 worker", "2 workers" */
export const plural = (number, one, many = one + "s") => `${count(number)} ${number === 1 ? one : many}`;

const two = (value) => String(value).padStart(2, "0");

/** 12 s, 3 min 20 s, 5 h 02 min, 3 d 04 h */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return whole + GAP + "s";
  if (whole < 3600) return pair(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86400) return pair(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
  return pair(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
}

function pair(large, unit, small, smaller) {
  return small === 0 ? large + GAP + unit : `${large}${GAP}${unit} ${two(small)}${GAP}${smaller}`;
}

/** "12 s ago", in one unit only: for columns. */
export function ago(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return "just now";
  const [size, unit] =
    seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 86400 ? [3600, "h"] : [86400, "d"];
  return Math.floor(seconds / size) + GAP + unit + " ago";
}

export function milliseconds(value) {
  if (!known(value)) return NONE;
  if (value > 0 && value < 0.05) return "<" + GAP + "0.1" + GAP + "ms";
  return value.toFixed(value < 10 ? 1 : 0) + GAP + "ms";
}

/** How long the pool takes: the middle, and what is seldom exceeded; `latency` {p50, p99} or null. */
export const answerTime = (latency) =>
  latency ? `${milliseconds(latency.p50)}, 99 of 100 within ${milliseconds(latency.p99)}` : NONE;

export function bytes(value) {
  if (!known(value)) return NONE;
  return join(parts(value, ["B", "kB", "MB", "GB"]));
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const clock = (unix) => CLOCK.format(unix * 1000);
export const minute = (unix) => MINUTE.format(unix * 1000);
export const day = (unix) => DAY.format(unix * 1000);

/** "14:03:12" today, "23 Nov, 14:03" before, "23 Nov 2025" long before; `now` is Unix seconds. */
export function moment(unix, now) {
  if (!known(unix)) return NONE;
  if (now - unix > 300 * 86400) return YEAR.format(unix * 1000);
  return day(unix) === day(now) ? clock(unix) : `${day(unix)}, ${minute(unix)}`;
}
