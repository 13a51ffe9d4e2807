// A chart with all that belongs to it: title, legend that reads the pointed-at values, range, text alternative, table.

import { get } from "./api.js";
import { h, replace, setText, hiddenText } from "./dom.js";
import { clock, day, minute, moment, sentence } from "./format.js";
import { Plot } from "./plot.js";
import { SECONDS, SPOKEN } from "./ranges.js";
import { store } from "./store.js";

const NARROWEST = 3600; // seconds of the time axis: in the first hours it begins with the first figure
const TABLE_ROWS = 48;

/**
 * `series`: [{metric, label, colour, fill, bars}] drawn from /history; `format(value)` for legend and table.
 * `load(range)` fetches and shows; `mark(events)` puts marks on it.
 */
export class Chart {
  #range = null;
  #data = null;
  #from = 0; // where the time axis begins
  #marks = [];
  #at = null; // the index that is pointed at, and the mark near it
  #near = null;

  constructor({
    title,
    series,
    format,
    scale,
    worker = null,
    height,
    sync,
    nothing = "No history yet. The curve begins after the first minutes.",
  }) {
    Object.assign(this, { title, series, format, worker, scale, nothing, counted: series.every((one) => one.bars) });
    this.time = h("span", { class: "legend-time" });
    this.values = series.map(() => h("span", { class: "legend-value" }));
    this.note = h("span", { class: "legend-note" });
    const legend = h(
      "div",
      { class: "legend", "aria-hidden": "true" },
      series.map((one, index) =>
        h(
          "span",
          { class: "legend-item" },
          h("span", { class: `swatch swatch-${one.colour.slice(2)}` }),
          one.label,
          " ",
          this.values[index],
        ),
      ),
      this.time,
      this.note,
    );
    this.unit = h("p", { class: "chart-unit", "aria-hidden": "true" });
    this.canvas = h("div", { class: "chart-canvas", role: "img", "aria-label": title });
    this.message = h("p", { class: "chart-message", hidden: true });
    this.rows = h("div", { class: "chart-table", tabindex: "0", role: "region", "aria-label": `${title} as a table` });
    this.details = h(
      "details",
      { class: "chart-details", on: { toggle: () => this.#table() } },
      h("summary", null, "As a table"),
      this.rows,
    );
    this.fault = h("p", { class: "chart-fault", hidden: true });
    this.element = h(
      "figure",
      { class: "chart" },
      legend,
      this.unit,
      h("div", { class: "chart-body" }, this.canvas, this.message),
      this.fault,
      this.details,
    );
    this.plot = new Plot(this.canvas, {
      series,
      scale,
      height,
      sync,
      hover: (index, mark) => this.#pointed(index, mark),
    });
  }

  /** Fetches and shows; where that fails, says so beneath what was shown before. */
  async load(range, signal) {
    let answers;
    try {
      answers = await Promise.all(
        this.series.map((one) => get("history", { metric: one.metric, range, worker: this.worker }, signal)),
      );
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
      return;
    }
    if (!signal.aborted) this.#show(range, align(answers));
  }

  #failed(error) {
    setText(this.fault, `This curve could not be fetched. ${sentence(error.message)}`);
    this.fault.hidden = false;
    this.element.classList.toggle("missing", this.#data === null);
  }

  #show(range, data) {
    this.fault.hidden = true;
    this.element.classList.remove("missing");
    this.#range = range;
    this.#data = data;
    const to = Math.max(data[0].at(-1) ?? 0, store.now());
    const first = data[0][data[0].findIndex((_, at) => data.some((column, number) => number && column[at] !== null))];
    this.#from = Math.max(to - SECONDS[range], Math.min(first ?? 0, to - NARROWEST));
    const nothing = this.#data
      .slice(1)
      .every((column) => column.every((value) => value === null || (value === 0 && this.counted)));
    this.message.hidden = !nothing;
    setText(this.message, nothing ? this.nothing : "");
    this.canvas.classList.toggle("faint", nothing);
    this.details.hidden = nothing;
    this.plot.show(this.#data, [this.#from, to], this.#marks);
    setText(this.unit, nothing ? "" : this.scale(largest(this.#data)).unit);
    this.#read();
    this.#describe();
    this.#table();
  }

  /** `meaning`: what the marks are, said where there are some in sight. */
  mark(events, meaning) {
    this.#marks = events;
    this.meaning = meaning;
    this.plot.mark(events);
    this.#read();
  }

  destroy() {
    this.plot.destroy();
  }

  #pointed(index, mark) {
    this.#at = index;
    this.#near = mark;
    this.#read();
  }

  /** Fills the legend: with what is pointed at, or with the latest. */
  #read() {
    if (!this.#data) return;
    const mark = this.#near;
    const index = this.#at !== null && this.#at < this.#data[0].length ? this.#at : null;
    const at = index ?? this.#latest();
    this.values.forEach((element, number) =>
      setText(element, at === null ? "" : this.format(this.#value(this.#data[number + 1], index, at))),
    );
    setText(this.time, index === null ? "" : this.#when(this.#data[0][index]));
    setText(this.note, mark ? `${minute(mark.unix)} ${mark.text}` : this.#marked() ? this.meaning : "");
  }

  /** What the legend says: at the pointer; else of curves the latest, and of things that are counted their sum. */
  #value(column, index, latest) {
    return index === null && this.counted
      ? column.reduce((sum, value) => sum + (value ?? 0), 0)
      : (column[latest] ?? null);
  }

  #marked() {
    return this.#marks.some((mark) => mark.unix > this.#from);
  }

  #when(unix) {
    return this.#range === "1h" ? clock(unix) : this.#range === "24h" ? minute(unix) : `${day(unix)}, ${minute(unix)}`;
  }

  /** The last moment that has a value. */
  #latest() {
    const [times, ...columns] = this.#data;
    for (let at = times.length - 1; at >= 0; at -= 1) if (columns.some((column) => column[at] !== null)) return at;
    return null;
  }

  #describe() {
    const sentences = this.series.map((one, number) => this.#sentence(one.label, this.#data[number + 1]));
    this.canvas.setAttribute("aria-label", `${this.title} over ${SPOKEN[this.#range]}. ${sentences.join(" ")}`);
  }

  #sentence(label, column) {
    const times = this.#data[0];
    let low = null,
      high = null;
    column.forEach((value, at) => {
      if (value === null) return;
      if (low === null || value < column[low]) low = at;
      if (high === null || value >= column[high]) high = at;
    });
    if (low === null) return `${label}: no figures.`;
    const first = this.counted
      ? `${this.format(this.#value(column, null))} in all`
      : `${this.format(column[this.#latest()] ?? null)} at the end`;
    return (
      `${label}: ${first}, lowest ${this.format(column[low])} at ${this.#when(times[low])}, ` +
      `highest ${this.format(column[high])} at ${this.#when(times[high])}.`
    );
  }

  /** Built only where somebody looks at it; of long curves every nth point. */
  #table() {
    if (!this.details.open || !this.#data) return;
    const [times, ...columns] = this.#data;
    const step = Math.ceil(times.length / TABLE_ROWS);
    const rows = [];
    for (let at = times.length - 1; at >= 0; at -= step) {
      rows.push(
        h(
          "tr",
          null,
          h("th", { scope: "row" }, moment(times[at], store.now())),
          columns.map((column) => h("td", { class: "num" }, this.format(column[at]))),
        ),
      );
    }
    replace(
      this.rows,
      h(
        "table",
        null,
        h("caption", null, hiddenText(this.title)),
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            h("th", { scope: "col" }, "Time"),
            this.series.map((one) => h("th", { scope: "col", class: "num" }, one.label)),
          ),
        ),
        h("tbody", null, rows),
      ),
    );
  }
}

function largest(data) {
  return Math.max(0, ...data.slice(1).flatMap((column) => column.map((value) => value ?? 0)));
}

/** Curves of several answers (of one step) on one time axis. Buckets that are missing become a null, for a gap. */
function align(answers) {
  const step = Math.max(...answers.map((answer) => answer.step_seconds));
  const known = new Set(answers.flatMap((answer) => answer.points.map(([unix]) => unix)));
  const times = [];
  for (const unix of [...known].sort((a, b) => a - b)) {
    const before = times.at(-1);
    if (before === undefined || unix - before > 1.5 * step)
      times.push(before === undefined ? unix - step : before + step);
    times.push(unix);
  }
  return [times, ...answers.map((answer) => valuesAt(times, answer.points))];
}

function valuesAt(times, points) {
  const values = new Map(points);
  return times.map((unix) => values.get(unix) ?? null);
}
