// What the panels need of a scrape, and the last two minutes of it.

export const KEPT_SECONDS = 120;

/**
 * One scrape in numbers; null is what the server does not have.
 * @typedef {object} Reading
 * @property {number} time seconds, of any clock that only goes forward
 * @property {Record<string, number | null>} values by the names of `SCALARS`
 */

/** @type {Record<string, [string, Record<string, string>?]>} our name → the series */
const SCALARS = {
  running: ["num_requests_running"],
  waiting: ["num_requests_waiting"],
  generated: ["generation_tokens_total"],
  prompted: ["prompt_tokens_total"],
  firstSum: ["time_to_first_token_seconds_sum"],
  firstCount: ["time_to_first_token_seconds_count"],
  betweenSum: ["inter_token_latency_seconds_sum"],
  betweenCount: ["inter_token_latency_seconds_count"],
  parallel: ["decode_seconds_total", { execution: "parallel" }],
  sequential: ["decode_seconds_total", { execution: "sequential" }],
  passes: ["decode_passes_total"],
};

/** @param {import("./metrics.js").Metrics} metrics @param {number} time @returns {Reading} */
export function read(metrics, time) {
  const entries = Object.entries(SCALARS).map(([name, [series, labels]]) => [name, metrics.get(series, labels)]);
  return { time, values: Object.fromEntries(entries) };
}

/** Readings, oldest first, for as long as the charts show. */
export class Readings {
  /** @type {Reading[]} */
  #kept = [];

  /** @param {Reading} reading */
  add(reading) {
    const restarted = this.latest?.values.generated > reading.values.generated; // counters never go back
    this.#kept = restarted ? [] : this.#kept.filter((one) => one.time >= reading.time - KEPT_SECONDS);
    this.#kept.push(reading);
  }

  /** @returns {Reading | null} */
  get latest() {
    return this.#kept.at(-1) ?? null;
  }

  /** @param {string} name @returns {number | null} */
  now(name) {
    return this.latest?.values[name] ?? null;
  }

  /**
   * @param {string} name of a counter
   * @param {number} seconds how far back
   * @param {number} [end] index of the reading at which to look
   * @returns {number | null} growth per second
   */
  rate(name, seconds, end = this.#kept.length - 1) {
    const span = this.#span(seconds, end, name);
    if (span === null) return null;
    const growth = difference(span, name);
    return growth === null ? null : growth / (span.last.time - span.first.time);
  }

  /**
   * @param {string} above a counter
   * @param {string} below a counter
   * @param {number} seconds
   * @param {number} [end]
   * @returns {number | null} growth of one over that of the other; null if the other did not grow
   */
  ratio(above, below, seconds, end = this.#kept.length - 1) {
    const span = this.#span(seconds, end, above);
    if (span === null) return null;
    const [one, other] = [difference(span, above), difference(span, below)];
    return one === null || other === null || other <= 0 ? null : one / other;
  }

  /**
   * @param {(end: number) => (number | null)[]} values at a reading's index
   * @returns {import("./chart.js").Point[]} for a chart: seconds before now, and values
   */
  points(values) {
    const now = this.latest?.time ?? 0;
    return this.#kept.map((reading, end) => ({ age: now - reading.time, values: values(end) }));
  }

  /** @param {number} index @param {string} name @returns {number | null} */
  at(index, name) {
    return this.#kept[index]?.values[name] ?? null;
  }

  /** The oldest reading within the time that has the series, and the one at `end`. */
  #span(seconds, end, name) {
    const last = this.#kept[end];
    if (last === undefined) return null;
    const first = this.#kept.find((one) => one.time >= last.time - seconds - 0.5 && one.values[name] !== null);
    return first === undefined || first.time >= last.time ? null : { first, last };
  }
}

function difference({ first, last }, name) {
  const [from, to] = [first.values[name], last.values[name]];
  return from == null || to == null || to < from ? null : to - from;
}
