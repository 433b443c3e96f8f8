// Prometheus' text format, as far as this page reads it.

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \S+)?$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const PREFIX = "loopserve_";

/** @typedef {{labels: Record<string, string>, value: number}} Sample */

/** One scrape. Names are given without the server's prefix. */
export class Metrics {
  /** @type {Map<string, Sample[]>} */
  #samples = new Map();

  /** @param {string} text of `/metrics` */
  constructor(text) {
    for (const line of text.split("\n")) {
      const found = line.startsWith(PREFIX) ? LINE.exec(line) : null;
      if (found === null) continue;
      const [, name, labels, value] = found;
      const known = this.#samples.get(name);
      const sample = { labels: readLabels(labels ?? ""), value: readNumber(value) };
      if (known) known.push(sample);
      else this.#samples.set(name, [sample]);
    }
  }

  /** @param {string} name @returns {Sample[]} empty if the server has no such series */
  all(name) {
    return this.#samples.get(PREFIX + name) ?? [];
  }

  /**
   * @param {string} name
   * @param {Record<string, string>} [labels] those that have to fit
   * @returns {number | null} null if the server has no such series
   */
  get(name, labels = {}) {
    const fits = (sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
    return this.all(name).find(fits)?.value ?? null;
  }
}

/** @param {string} text @returns {Record<string, string>} */
function readLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign));
  }
  return labels;
}

/** @param {string} text @returns {number} */
function readNumber(text) {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}
