// A curve over time on a canvas (uPlot): drawing only. What stands around it is in chart.js.

import { day, minute } from "./format.js";
import { colour, onTheme } from "./theme.js";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const MARK_NEAR = 6; // pixels

/**
 * `series`: [{colour: "--checked", fill: bool, bars: bool}]; `height`: in 1/16 rem; `scale(largest)` -> {divisor, unit};
 * `hover(index, mark)` is called with null where the pointer is elsewhere; `sync`: charts with the same key share their
 * pointer.
 */
export class Plot {
  #plot = null;
  #data = null;
  #marks = [];
  #span = [0, 1];
  #size = 16;

  constructor(host, { series, scale, hover, height = 240, sync = null }) {
    Object.assign(this, { host, series, scale, hover, height, sync, whole: series.some((one) => one.bars) });
    this.#watch();
  }

  #watch() {
    // a size that was measured belongs to the next frame: within this one the observer would call itself
    this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.#resize()));
    this.observer.observe(this.host);
    this.endTheme = onTheme(() => this.#rebuild());
  }

  /** `data`: uPlot's columns, times first; `span`: [from, to] of the time axis; `marks`: [{unix, severity, text}]. */
  show(data, span, marks = []) {
    this.#data = data;
    this.#span = span;
    this.#marks = marks;
    if (this.#plot) this.#plot.setData(data);
    else this.#rebuild();
  }

  mark(marks) {
    this.#marks = marks;
    this.#plot?.redraw(false);
  }

  destroy() {
    this.observer.disconnect();
    this.endTheme();
    this.#plot?.destroy();
    this.#plot = null;
  }

  #resize() {
    const width = this.host.clientWidth;
    if (!this.#plot || width === 0 || width === this.#plot.width) return;
    if (this.#size !== rootSize()) this.#rebuild();
    else this.#plot.setSize({ width, height: this.#plot.height });
  }

  #rebuild() {
    this.#plot?.destroy();
    this.#plot = null;
    if (!this.#data) return;
    this.#plot = new uPlot(this.#options(), this.#data, this.host);
  }

  /** Whether the time axis is so long that it tells dates only. */
  #dates() {
    return this.#span[1] - this.#span[0] > 3 * DAY;
  }

  #largest() {
    let largest = 0;
    for (const column of this.#data.slice(1)) for (const value of column) if (value > largest) largest = value;
    return largest;
  }

  #options() {
    const size = (this.#size = rootSize());
    const font = `${0.75 * size}px ${FONT}`;
    const quiet = colour("--muted");
    const line = { stroke: colour("--line"), width: 1 };
    return {
      width: Math.max(this.host.clientWidth, 200),
      height: Math.round((this.height / 16) * size),
      padding: [0.625 * size, 1.25 * size, 0, 0],
      legend: { show: false },
      scales: { x: { time: true, range: () => this.#span }, y: { range: () => [0, (this.#largest() || 1) * 1.08] } },
      axes: [
        {
          font,
          stroke: quiet,
          grid: { show: false },
          ticks: { ...line, size: 4 },
          gap: 6,
          size: 1.9 * size,
          space: 4 * size,
          incrs: () => (this.#dates() ? STEPS.filter((step) => step >= DAY) : STEPS),
          values: (plot, ticks) => timeLabels(ticks, this.#dates()),
        },
        {
          font,
          stroke: quiet,
          grid: line,
          ticks: { show: false },
          gap: 8,
          size: 2.75 * size,
          space: 2.25 * size,
          incrs: this.whole ? WHOLE_STEPS : undefined,
          values: (plot, ticks) => this.#valueLabels(ticks),
        },
      ],
      series: [{}, ...this.series.map((one) => this.#oneSeries(one))],
      cursor: {
        y: false,
        drag: { x: false, y: false },
        points: { size: 7 },
        sync: this.sync ? { key: this.sync, setSeries: false } : undefined,
      },
      hooks: { drawClear: [(plot) => this.#drawMarks(plot)], setCursor: [(plot) => this.#pointed(plot)] },
    };
  }

  #oneSeries({ colour: name, fill, bars }) {
    const stroke = colour(name);
    const style = {
      stroke,
      width: bars ? 0 : 1.75,
      alpha: bars ? 0.8 : 1,
      points: { size: 7, width: 0, fill: stroke, filter: bars ? () => [] : alone },
      spanGaps: false,
    };
    if (fill) style.fill = colour(name + "-soft");
    if (bars) Object.assign(style, { fill: stroke, paths: uPlot.paths.bars({ size: [0.72, 24], gap: 0 }) });
    return style;
  }

  #valueLabels(ticks) {
    if (this.#largest() === 0) return ticks.map((tick) => (tick === 0 ? "0" : "")); // a scale of nothing says nothing
    const { divisor } = this.scale(this.#largest());
    const scaled = ticks.map((tick) => tick / divisor);
    const step = scaled.length > 1 ? scaled[1] - scaled[0] : 1;
    const decimals = decimalsOf(step);
    return scaled.map((value) => (value === 0 ? "0" : value.toFixed(decimals)));
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = window.devicePixelRatio || 1;
    ctx.save();
    for (const mark of this.#marks) {
      if (mark.unix < this.#span[0] || mark.unix > this.#span[1]) continue;
      const x = Math.round(plot.valToPos(mark.unix, "x", true)) + 0.5;
      ctx.strokeStyle = ctx.fillStyle = colour(MARK_COLOURS[mark.severity] ?? "--muted");
      ctx.lineWidth = ratio;
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.moveTo(x - 4 * ratio, bbox.top - 8 * ratio);
      ctx.lineTo(x + 4 * ratio, bbox.top - 8 * ratio);
      ctx.lineTo(x, bbox.top - ratio);
      ctx.fill();
    }
    ctx.restore();
  }

  #pointed(plot) {
    const { idx, left } = plot.cursor;
    if (left === undefined || left < 0 || idx === null || idx === undefined) {
      this.hover?.(null, null);
      return;
    }
    const near = this.#marks.filter((mark) => Math.abs(plot.valToPos(mark.unix, "x") - left) <= MARK_NEAR);
    this.hover?.(idx, near.at(-1) ?? null);
  }
}

/** The values without a neighbour, which no line would show. */
function alone(plot, number) {
  const values = plot.data[number];
  const known = (at) => values[at] !== null && values[at] !== undefined;
  return [...values.keys()].filter((at) => known(at) && !known(at - 1) && !known(at + 1));
}

/** How many decimals tell ticks of this distance apart: 0 of 20, 2 of 0.25. */
function decimalsOf(step) {
  return [0, 1, 2].find((digits) => Math.abs(step - Number(step.toFixed(digits))) < step / 1e6) ?? 3;
}

/** Pixels of 1 rem, which is more on large screens: what is drawn grows with the text around it. */
const rootSize = () => parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;

const MARK_COLOURS = { critical: "--bad", warning: "--warn", info: "--muted" };

const MINUTE = 60,
  HOUR = 3600,
  DAY = 86400;
const STEPS = [
  1,
  5,
  10,
  15,
  30,
  MINUTE,
  2 * MINUTE,
  5 * MINUTE,
  10 * MINUTE,
  15 * MINUTE,
  20 * MINUTE,
  30 * MINUTE,
  HOUR,
  2 * HOUR,
  3 * HOUR,
  4 * HOUR,
  6 * HOUR,
  8 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  4 * DAY,
  5 * DAY,
  7 * DAY,
  10 * DAY,
  15 * DAY,
  30 * DAY,
  61 * DAY,
  91 * DAY,
];

// Of things that are counted, there are no halves.
const WHOLE_STEPS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** 14:00, and the date where a day begins; for long spans only dates. */
function timeLabels(ticks, dates) {
  return ticks.map((tick) => (dates || minute(tick) === "00:00" ? day(tick) : minute(tick)));
}
