// The server's API, at addresses relative to the page, so that it works behind a path prefix.

const STORED = "loopserve.key";
const MAX_SHOWN = 600;

/** A request that was refused or never answered; its message is in words. */
export class ApiFailure extends Error {
  /**
   * @param {string} message
   * @param {number} [status] 0 if there was no answer
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Sends requests with the user's key. Dispatches "unauthorized" when the server wants another key, "key" when it has changed. */
export class Api extends EventTarget {
  /** @type {string} "" for none; memory is enough where the browser forbids storage */
  #key = "";

  constructor() {
    super();
    try {
      this.#key = sessionStorage.getItem(STORED) ?? "";
    } catch {
      // Then it has to be typed again after a reload.
    }
  }

  get key() {
    return this.#key;
  }

  /** @param {string} key kept in this tab only */
  set key(key) {
    this.#key = key;
    try {
      if (key) sessionStorage.setItem(STORED, key);
      else sessionStorage.removeItem(STORED);
    } catch {
      // As above.
    }
    this.dispatchEvent(new Event("key"));
  }

  /**
   * @param {string} path such as "v1/models"
   * @param {{body?: object, signal?: AbortSignal, key?: string}} [options] `key` instead of the kept one
   * @returns {Promise<Response>} an answer that is no error
   * @throws {ApiFailure} anything else; an AbortError if `signal` says so
   */
  async request(path, { body, signal, key = this.#key } = {}) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (key) headers.Authorization = `Bearer ${asBytes(key)}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const address = new URL(path, document.baseURI);
    const init = { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal };
    let response;
    try {
      response = await fetch(address, { ...init, cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiFailure("The server can’t be reached.");
    }
    if (response.ok) return response;
    if (response.status === 401 && key === this.#key) this.dispatchEvent(new Event("unauthorized"));
    throw await failureOf(response);
  }

  /** @param {string} path @param {{signal?: AbortSignal, key?: string}} [options] @returns {Promise<any>} */
  async json(path, options) {
    return (await this.request(path, options)).json();
  }
}

/** @param {unknown} body an error object of the server @returns {string | null} its text */
export function errorText(body) {
  const message = body?.error?.message;
  return typeof message === "string" && message !== "" ? message.slice(0, MAX_SHOWN) : null;
}

/** @param {Response} response @returns {Promise<ApiFailure>} */
async function failureOf(response) {
  let text = null;
  try {
    text = errorText(await response.json());
  } catch {
    // No JSON: something between the server and here has answered.
  }
  text ??= `The server answered ${response.status} without saying why.`;
  const wait = response.headers.get("Retry-After");
  return new ApiFailure(wait && /^\d+$/.test(wait) ? `${text} Try again in ${wait} s.` : text, response.status);
}

/** @param {string} text @returns {string} its UTF-8 bytes as fetch wants header values: one character a byte */
function asBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
