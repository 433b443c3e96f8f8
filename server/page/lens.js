// What each loop predicted, token by token: the logit lens of `loop_logprobs`.

import { html } from "./dom.js";
import { figures, percent } from "./format.js";

const STRONG = 4; // nats from which on a token gets the full colour
const STEPS = 5;

/**
 * One generated token.
 * @typedef {object} LensToken
 * @property {string} text
 * @property {number[]} logprobs what each loop gave this token, first loop first
 * @property {string[] | null} tops each loop's most probable token; null if the server does not say
 */

/** @param {any} choice of a completion's chunk @returns {LensToken[]} */
export function tokensOf(choice) {
  const names = choice.logprobs?.tokens ?? [];
  const logprobs = choice.loop_logprobs ?? [];
  const tops = choice.loop_tokens ?? [];
  return names.map((text, i) => ({ text, logprobs: logprobs[i] ?? [], tops: tops[i] ?? null }));
}

/** @param {LensToken} token @returns {number | null} by how many nats the last loop changed it; null for one loop */
export function change(token) {
  const { logprobs } = token;
  return logprobs.length < 2 ? null : logprobs[logprobs.length - 1] - logprobs[logprobs.length - 2];
}

/** @param {LensToken} token @returns {boolean} whether the last loop's most probable token is another than that before */
export function decided(token) {
  const { tops } = token;
  return tops !== null && tops.length > 1 && tops[tops.length - 1] !== tops[tops.length - 2];
}

/** Tokens in a row, one of which is looked at. A list box: one stop of the Tab key, arrows within. */
export class Lens {
  /** @param {HTMLElement} inspector where the token that is looked at is explained */
  constructor(inspector) {
    this.inspector = inspector;
    /** @type {LensToken[]} */
    this.tokens = [];
    this.chosen = -1;
    this.inspector.replaceChildren(legend());
    this.inspector.hidden = false;
    this.element = html("span", { role: "listbox", "aria-label": "Tokens of the answer", class: "lens" });
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("focusin", (event) => this.#look(event.target));
    this.element.addEventListener("mouseover", (event) => this.#look(event.target));
    this.element.addEventListener("click", (event) => event.target.closest("[role=option]")?.focus());
  }

  /** @param {LensToken} token */
  add(token) {
    const nats = change(token);
    const level = nats === null ? 0 : Math.min(STEPS, Math.ceil((Math.abs(nats) / STRONG) * STEPS - 0.5));
    const option = html("span", {
      role: "option",
      class: "token tint",
      tabindex: this.tokens.length === 0 ? 0 : -1,
      "aria-selected": "false",
      "data-index": this.tokens.length,
      "data-level": level > 0 ? level : null,
      "data-lowered": nats !== null && nats < 0,
      "data-decided": decided(token),
    }, token.text);
    if (token.text.trim() === "") option.setAttribute("aria-label", visible(token.text));
    this.tokens.push(token);
    this.element.append(option);
  }

  /** Show that the last token ended the answer and is no part of its text. */
  markEnd() {
    this.element.lastElementChild?.setAttribute("data-end", "");
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const last = this.tokens.length - 1;
    const moves = { ArrowLeft: this.chosen - 1, ArrowRight: this.chosen + 1, ArrowUp: this.chosen - 1, ArrowDown: this.chosen + 1, Home: 0, End: last };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.element.children[Math.max(0, Math.min(last, moves[event.key]))].focus();
  }

  /** @param {any} target */
  #look(target) {
    const option = target.closest?.("[role=option]");
    if (!option) return;
    const before = this.element.children[this.chosen];
    before?.setAttribute("aria-selected", "false");
    before?.setAttribute("tabindex", "-1");
    this.chosen = Number(option.dataset.index);
    option.setAttribute("aria-selected", "true");
    option.setAttribute("tabindex", "0");
    this.inspector.replaceChildren(...explain(this.tokens[this.chosen], this.chosen));
  }
}

/** @returns {Node} what the colours mean; shown until a token is looked at */
function legend() {
  const sample = (words, marks) => html("span", { class: "tint", ...marks }, words);
  return html("p", { class: "quiet small" },
    "The last loop made a token ", sample("more likely", { "data-level": 4 }), " or ",
    sample("less likely", { "data-level": 4, "data-lowered": true }), ", or ",
    sample("chose another one", { "data-decided": true }),
    " than the loop before it. Point at a token, or move through them with the arrow keys.");
}

/** @param {LensToken} token @param {number} index @returns {Node[]} */
function explain(token, index) {
  const head = html("p", {}, `Token ${index + 1} `, html("code", {}, visible(token.text)), html("span", { class: "quiet" }, ` ${verdict(token)}`));
  const rows = token.logprobs.map((logprob, loop) => {
    const probability = Math.exp(logprob);
    const share = html("span");
    share.style.width = `${100 * probability}%`;
    return html("tr", {},
      html("th", { scope: "row" }, `Loop ${loop}`),
      html("td", {}, html("code", {}, token.tops ? visible(token.tops[loop]) : "–")),
      html("td", { class: "number" }, percent(probability)),
      html("td", {}, html("span", { class: "probability", "aria-hidden": "true" }, share)));
  });
  const titles = html("tr", {},
    html("th", { scope: "col" }, "Loop"),
    html("th", { scope: "col" }, "Most probable"),
    html("th", { scope: "col", colspan: 2 }, "Probability of this token"));
  return [head, html("table", {}, html("thead", {}, titles), html("tbody", {}, ...rows))];
}

/** @param {LensToken} token @returns {string} */
function verdict(token) {
  const nats = change(token);
  if (nats === null) return "one loop: nothing to compare with";
  const factor = Math.exp(Math.abs(nats));
  if (factor < 1.1) return "the last loop left it as it was";
  const times = factor > 1000 ? "over 1,000" : figures(factor);
  return `the last loop made it ${times} times as ${nats > 0 ? "likely" : "unlikely"}`;
}

/** @param {string} text @returns {string} with signs for what can't be seen */
function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}
