// The numbers beside the prompt, checked in words before anything is sent.

import { byId } from "./dom.js";

/** A setting that can't be sent; its element gets the focus. */
export class SettingProblem extends Error {
  /** @param {HTMLElement} element @param {string} message */
  constructor(element, message) {
    super(message);
    this.element = element;
  }
}

const FIELDS = [
  { id: "max-tokens", field: "max_tokens", name: "Max tokens", whole: true },
  { id: "temperature", field: "temperature", name: "Temperature", whole: false },
  { id: "top-p", field: "top_p", name: "Top p", whole: false },
  { id: "seed", field: "seed", name: "Seed", whole: true },
];

/** The settings of the next request. */
export class RequestSettings {
  /** Whether the model is known; before, the slider means nothing. */
  #fitted = false;

  constructor() {
    this.slider = byId("loops");
    this.shown = byId("loops-shown");
    this.slider.addEventListener("input", () => this.#showLoops());
  }

  /**
   * Fit the controls to a model; the slider begins at all its loops.
   * @param {{num_loops: number, max_model_len: number}} model
   */
  fit(model) {
    const before = Number(this.slider.max);
    const wasAll = this.slider.value === this.slider.max;
    this.slider.max = String(model.num_loops);
    if (before !== model.num_loops && wasAll) this.slider.value = this.slider.max;
    this.slider.disabled = model.num_loops === 1;
    this.#fitted = true;
    byId("max-tokens").max = String(model.max_model_len);
    this.#showLoops();
  }

  /** @returns {Record<string, number>} fields of a request; what is left empty is left to the server
   *  @throws {SettingProblem} */
  fields() {
    /** @type {Record<string, number>} */
    const out = this.#fitted ? { loops: Number(this.slider.value) } : {};
    for (const { id, field, name, whole } of FIELDS) {
      const input = byId(id);
      const value = read(input, name, whole);
      input.removeAttribute("aria-invalid");
      if (value !== null) out[field] = value;
    }
    return out;
  }

  #showLoops() {
    this.shown.textContent = `${this.slider.value} of ${this.slider.max}`;
  }
}

/** @param {HTMLInputElement} input @param {string} name @param {boolean} whole @returns {number | null} */
function read(input, name, whole) {
  const value = input.valueAsNumber;
  if (input.value === "" && !input.validity.badInput) return null;
  const low = input.min === "" ? -Infinity : Number(input.min);
  const high = input.max === "" ? Infinity : Number(input.max);
  const fits = Number.isFinite(value) && value >= low && value <= high && (!whole || Number.isSafeInteger(value));
  if (fits) return value;
  input.setAttribute("aria-invalid", "true");
  const kind = whole ? "a whole number" : "a number";
  const bounds = [low > -Infinity ? `from ${input.min}` : "", high < Infinity ? `to ${input.max}` : ""].join(" ").trim();
  throw new SettingProblem(input, `${name} must be ${[kind, bounds].filter(Boolean).join(" ")}.`);
}
