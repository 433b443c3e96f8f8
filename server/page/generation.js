// One request that generates: its body, its stream, its times.

import { ApiFailure, errorText } from "./api.js";
import { eventData } from "./sse.js";

/**
 * What a piece of the stream brings.
 * @typedef {object} Piece
 * @property {string} text
 * @property {string} reasoning
 * @property {any} choice the choice as it came, or an empty object
 */

/**
 * @typedef {object} Outcome
 * @property {any} usage the server's latest counts, or null
 * @property {string | null} finish why it ended; null if it was stopped here
 * @property {number | null} firstToken seconds from sending to the first token
 * @property {number | null} rate tokens per second after the first
 */

/** Adds up one stream. */
export class Generation {
  /** @param {() => number} [clock] milliseconds */
  constructor(clock = () => performance.now()) {
    this.clock = clock;
    this.started = clock();
    /** @type {number | null} */
    this.first = null;
    this.firstCount = 0;
    this.last = this.started;
    /** @type {any} */
    this.usage = null;
    /** @type {string | null} */
    this.finish = null;
  }

  /**
   * @param {import("./api.js").Api} api
   * @param {string} path of the endpoint
   * @param {object} body without the fields about streaming
   * @param {AbortSignal} signal ends it
   * @returns {AsyncGenerator<Piece>}
   * @throws {ApiFailure} also in the middle of a stream
   */
  async *pieces(api, path, body, signal) {
    const options = { include_usage: true, continuous_usage_stats: true };
    const response = await api.request(path, { body: { ...body, stream: true, stream_options: options }, signal });
    for await (const data of eventData(/** @type {ReadableStream} */ (response.body))) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiFailure(errorText(chunk) ?? "The server ended the answer without saying why.");
      yield this.#take(chunk);
    }
    throw new ApiFailure("The connection ended before the answer did.");
  }

  /** @param {any} chunk @returns {Piece} */
  #take(chunk) {
    const choice = chunk.choices[0] ?? {};
    this.usage = chunk.usage ?? this.usage;
    this.finish = choice.finish_reason ?? this.finish;
    const generated = this.usage?.completion_tokens ?? 0;
    if (chunk.choices.length && generated > 0) {
      this.last = this.clock();
      if (this.first === null) {
        this.first = this.last;
        this.firstCount = generated;
      }
    }
    const { text, delta } = choice;
    return { text: text ?? delta?.content ?? "", reasoning: delta?.reasoning_content ?? "", choice };
  }

  /** @returns {Outcome} */
  outcome() {
    if (this.first === null) return { usage: this.usage, finish: this.finish, firstToken: null, rate: null };
    const more = this.usage.completion_tokens - this.firstCount;
    const seconds = (this.last - this.first) / 1000;
    const rate = more > 0 && seconds > 0 ? more / seconds : null;
    return { usage: this.usage, finish: this.finish, firstToken: (this.first - this.started) / 1000, rate };
  }
}
