// The panels: what is drawn of the readings.

import { LineChart } from "./chart.js";
import { html } from "./dom.js";
import { count, duration, figures } from "./format.js";

const SHORT = 5; // seconds over which a line's points are averaged
const LONG = 60; // seconds over which a headline is

/** @typedef {import("./readings.js").Readings} Readings */

/**
 * A titled box of the live part.
 * @param {string} id
 * @param {string} title
 * @param {...(Node | null)} children
 * @returns {HTMLElement}
 */
export function panel(id, title, ...children) {
  return html("section", { class: "panel", id, "aria-labelledby": `${id}-title` },
    html("h3", { id: `${id}-title` }, title), ...children);
}

/** A number in large and what it is. */
class Headline {
  constructor() {
    this.value = html("strong", {});
    this.note = html("span", { class: "quiet" });
    this.element = html("p", { class: "headline" }, this.value, " ", this.note);
  }

  /** @param {string} value @param {string} note */
  show(value, note) {
    this.value.textContent = value;
    this.note.textContent = note;
  }
}

/** Decode passes: all loops together against one after another. */
export class DecodePanel {
  constructor() {
    this.headline = new Headline();
    this.chart = new LineChart("Time of a decode pass", ["loops together", "one after another"], duration);
    this.element = panel("decode", "Decode pass", this.headline.element, this.chart.element);
  }

  /** @param {Readings} readings */
  show(readings) {
    const known = readings.now("parallel") !== null && readings.now("sequential") !== null;
    this.chart.element.hidden = !known;
    if (!known) {
      this.headline.show("–", "not available: nothing to compare with in this server");
      return;
    }
    const speedUp = readings.ratio("sequential", "parallel", LONG);
    if (speedUp === null) this.headline.show("–", "no measured decode passes in the last minute");
    else this.headline.show(`${speedUp.toFixed(2)}×`, "as fast as one loop after another, last minute");
    const times = (seconds, end) => ["parallel", "sequential"].map((name) => readings.ratio(name, "passes", seconds, end));
    this.chart.show(readings.points((end) => times(SHORT, end)), times(LONG));
  }
}

/** Tokens per second. */
export class ThroughputPanel {
  constructor() {
    this.chart = new LineChart("Tokens per second", ["generated", "prompts"], figures);
    this.element = panel("throughput", "Tokens per second", this.chart.element);
  }

  /** @param {Readings} readings */
  show(readings) {
    const rates = (end) => ["generated", "prompted"].map((name) => readings.rate(name, SHORT, end));
    this.chart.show(readings.points(rates), rates());
  }
}

/** Sequences that run and wait. */
export class SequencesPanel {
  constructor() {
    this.chart = new LineChart("Sequences", ["running", "waiting"], count);
    this.element = panel("sequences", "Sequences", this.chart.element);
  }

  /** @param {Readings} readings */
  show(readings) {
    const values = (end) => ["running", "waiting"].map((name) => readings.at(end, name));
    this.chart.show(readings.points(values), ["running", "waiting"].map((name) => readings.now(name)));
  }
}

/** Time to the first token and between tokens. */
export class LatencyPanel {
  constructor() {
    this.chart = new LineChart("Latency", ["first token", "between tokens"], duration);
    this.element = panel("latency", "Latency, mean", this.chart.element);
  }

  /** @param {Readings} readings */
  show(readings) {
    const means = (seconds, end) => [
      readings.ratio("firstSum", "firstCount", seconds, end),
      readings.ratio("betweenSum", "betweenCount", seconds, end),
    ];
    this.chart.show(readings.points((end) => means(SHORT, end)), means(LONG));
  }
}
