// A line chart of the last two minutes.

import { html, svg } from "./dom.js";
import { KEPT_SECONDS } from "./readings.js";

const WIDTH = 240;
const HEIGHT = 64;
const GAP_SECONDS = 5; // further apart, two readings are not joined

/** @typedef {{age: number, values: (number | null)[]}} Point seconds before now, one value per line */

/** Lines over time, a legend with the newest values, and the highest value as the only tick. */
export class LineChart {
  /**
   * @param {string} title for those who can't see it
   * @param {string[]} names of the lines; the first has the accent
   * @param {(value: number | null) => string} format
   */
  constructor(title, names, format) {
    this.title = title;
    this.names = names;
    this.format = format;
    this.lines = names.map((_, i) => svg("path", { class: `line line-${i}` }));
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "axis", d: `M0 0.5H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }), ...this.lines);
    this.tick = html("span", { class: "tick" });
    this.values = names.map(() => html("b", {}));
    const legend = names.map((name, i) => html("li", {}, html("span", { class: `swatch line-${i}` }), `${name} `, this.values[i]));
    this.element = html("div", { class: "chart" },
      html("div", { class: "plot" }, this.tick, this.picture),
      html("div", { class: "ends", "aria-hidden": "true" }, html("span", {}, "2 min ago"), html("span", {}, "now")),
      html("ul", { class: "legend" }, ...legend));
  }

  /** @param {Point[]} points oldest first @param {(number | null)[]} now one value per line */
  show(points, now) {
    const all = points.flatMap((point) => point.values).filter((value) => value !== null && Number.isFinite(value));
    const top = niceAbove(Math.max(...all, 0));
    this.tick.textContent = all.length ? this.format(top) : "";
    this.lines.forEach((line, i) => line.setAttribute("d", pathOf(points, i, top)));
    const words = this.names.map((name, i) => `${name} ${this.format(now[i])}`);
    this.values.forEach((value, i) => { value.textContent = this.format(now[i]); });
    this.picture.setAttribute("aria-label", `${this.title}, the last two minutes. Now: ${words.join(", ")}.`);
  }
}

/** @param {number} value @returns {number} 1, 2 or 5 times a power of ten, no less than it */
export function niceAbove(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return (([1, 2, 5].find((step) => step * power >= value * 0.999)) ?? 10) * power;
}

/** @param {Point[]} points @param {number} line @param {number} top @returns {string} */
function pathOf(points, line, top) {
  let path = "";
  let before = null;
  for (const { age, values } of points) {
    const value = values[line];
    if (value === null || !Number.isFinite(value)) {
      before = null;
      continue;
    }
    const x = WIDTH * (1 - age / KEPT_SECONDS);
    const y = 1 + (HEIGHT - 2) * (1 - value / top);
    // A single point is a line without length, which a round cap makes visible.
    path += `${before !== null && before - age < GAP_SECONDS ? "L" : `M${x.toFixed(1)} ${y.toFixed(1)}L`}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = age;
  }
  return path;
}
