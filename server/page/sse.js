// Server-sent events from a fetch: EventSource can neither POST nor send a key.

import { ApiFailure } from "./api.js";

/**
 * The data of each event, as it comes. Comments and other fields are left out.
 *
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>}
 * @throws {ApiFailure} the connection broke
 */
export async function* eventData(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await piece(reader);
      if (done) return; // what is not ended by an empty line is no event
      pending += decoder.decode(value, { stream: true });
      const parts = pending.split("\n\n"); // the server frames by LF only
      pending = parts.pop() ?? "";
      for (const part of parts) {
        const data = dataOf(part);
        if (data !== null) yield data;
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // the reader of a broken stream can't be cancelled, nor needs it
  }
}

/** @param {ReadableStreamDefaultReader<Uint8Array>} reader */
async function piece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiFailure("The connection broke before the answer ended.");
  }
}

/** @param {string} event @returns {string | null} null for a comment */
function dataOf(event) {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : null;
}
