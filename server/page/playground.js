// The form, the answer and what it took.

import { ApiFailure } from "./api.js";
import { byId, html, say } from "./dom.js";
import { count, duration, figures, plural } from "./format.js";
import { Generation } from "./generation.js";
import { Lens, tokensOf } from "./lens.js";
import { RequestSettings, SettingProblem } from "./settings.js";

const EXAMPLES = { completion: "def fibonacci(n):\n    ", chat: "Write a Python function `is_even`." };
const AT_END = 24; // pixels from the end within which the answer is followed

/** A completion or a chat at a time. */
export class Playground {
  /** @type {AbortController | null} of the request that runs */
  #running = null;
  /** @type {{role: string, content: string}[]} */
  #messages = [];
  /** @type {{id: string, num_loops: number, max_model_len: number} | null} */
  #model = null;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.settings = new RequestSettings();
    this.output = byId("output");
    this.prompt = byId("prompt");
    this.prompt.value = EXAMPLES.completion;
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.#running?.abort());
    byId("clear").addEventListener("click", () => this.#clear());
    document.addEventListener("keydown", (event) => this.#onKey(event));
    for (const radio of this.#radios()) radio.addEventListener("change", () => this.#onMode());
    this.#onMode();
  }

  /** @param {{id: string, num_loops: number, max_model_len: number}} model */
  use(model) {
    this.#model = model;
    this.settings.fit(model);
  }

  /** @returns {"completion" | "chat"} */
  get mode() {
    return this.#radios().find((radio) => radio.checked).value;
  }

  #radios() {
    return [...document.querySelectorAll("input[name=mode]")];
  }

  #onMode() {
    const chat = this.mode === "chat";
    byId("prompt-label").textContent = chat ? "Message" : "Prompt";
    byId("send").textContent = chat ? "Send" : "Complete";
    byId("lens-row").hidden = chat;
    const other = EXAMPLES[chat ? "completion" : "chat"];
    if (this.prompt.value === other || this.prompt.value === "") this.prompt.value = EXAMPLES[this.mode];
    this.#clear();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (byId("key-dialog").open) return;
    if (event.key === "Escape" && this.#running) this.#running.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === this.prompt) this.#send();
  }

  #clear() {
    this.#running?.abort();
    this.#running = null; // so that its end changes nothing any more
    this.#show(false);
    this.#messages = [];
    this.output.replaceChildren(html("p", { class: "quiet" }, "The answer will be here."));
    byId("inspector").hidden = true;
    say(byId("problem"), null);
    byId("usage").textContent = "";
  }

  async #send() {
    if (this.#running) return;
    const problem = byId("problem");
    say(problem, null);
    let fields;
    try {
      if (this.prompt.value === "") throw new SettingProblem(this.prompt, "Type something first.");
      fields = this.settings.fields();
    } catch (wrong) {
      say(problem, wrong.message);
      wrong.element.focus();
      return;
    }
    const running = new AbortController();
    this.#running = running;
    this.#show(true);
    const generation = new Generation();
    const body = this.#model ? { model: this.#model.id, ...fields } : fields;
    try {
      await (this.mode === "chat" ? this.#chat(generation, body, running.signal) : this.#complete(generation, body, running.signal));
    } catch (failure) {
      if (this.#running === running && failure.name !== "AbortError") say(problem, failure instanceof ApiFailure ? failure.message : `This page failed: ${failure.message}`);
    } finally {
      if (this.#running === running) {
        this.#running = null;
        this.#show(false);
        byId("usage").textContent = summary(generation.outcome(), running.signal.aborted);
      }
    }
  }

  /** @param {Generation} generation @param {object} body @param {AbortSignal} signal */
  async #complete(generation, body, signal) {
    const prompt = this.prompt.value;
    const lens = byId("lens").checked ? new Lens(byId("inspector")) : null;
    const answer = document.createTextNode("");
    this.output.replaceChildren(html("span", { class: "given" }, prompt), lens ? lens.element : answer);
    byId("inspector").hidden = lens === null;
    let text = "";
    const wanted = lens ? { logprobs: 0, loop_logprobs: true } : {};
    for await (const piece of generation.pieces(this.api, "v1/completions", { ...body, ...wanted, prompt }, signal)) {
      text += piece.text;
      this.#following(() => {
        if (lens) tokensOf(piece.choice).forEach((token) => lens.add(token));
        else answer.appendData(piece.text);
      });
    }
    if (lens && generation.finish === "stop" && !text.endsWith(lens.tokens.at(-1)?.text ?? "")) lens.markEnd();
  }

  /** @param {Generation} generation @param {object} body @param {AbortSignal} signal */
  async #chat(generation, body, signal) {
    const content = this.prompt.value;
    if (this.#messages.length === 0) this.output.replaceChildren();
    const messages = [...this.#messages, { role: "user", content }];
    const thought = document.createTextNode("");
    const answer = document.createTextNode("");
    const thinking = html("span", { class: "thinking" }, thought);
    const turn = [said("You", content), said("Model", thinking, answer)];
    this.#following(() => this.output.append(...turn));
    try {
      for await (const piece of generation.pieces(this.api, "v1/chat/completions", { ...body, messages }, signal)) {
        this.#following(() => {
          thought.appendData(piece.reasoning);
          answer.appendData(piece.text);
        });
      }
    } finally {
      // A refused message stays in its field and leaves nothing behind; what was answered in part is part of the chat.
      if (generation.first === null) turn.forEach((element) => element.remove());
      else if (turn[0].isConnected) {
        this.#messages = [...messages, { role: "assistant", content: answer.data }];
        if (this.prompt.value === content) this.prompt.value = "";
      }
    }
  }

  /** @param {() => void} change of the answer, whose end stays in sight if it was */
  #following(change) {
    const { output } = this;
    const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < AT_END;
    change();
    if (atEnd) output.scrollTop = output.scrollHeight;
  }

  /** @param {boolean} running */
  #show(running) {
    this.output.setAttribute("aria-busy", String(running));
    byId("send").disabled = running;
    byId("stop").disabled = !running;
    if (running) byId("usage").textContent = "Generating…";
  }
}

/** @param {string} who @param {...(Node | string)} what */
function said(who, ...what) {
  return html("div", { class: "turn" }, html("span", { class: "who" }, who), html("div", { class: "said" }, ...what));
}

/** @param {import("./generation.js").Outcome} outcome @param {boolean} stopped @returns {string} */
function summary(outcome, stopped) {
  const { usage, finish, firstToken, rate } = outcome;
  if (!usage) return stopped ? "Stopped." : "";
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return [
    `${plural(usage.prompt_tokens, "prompt token")}${cached ? ` (${count(cached)} cached)` : ""}`,
    plural(usage.completion_tokens, "token"),
    ...(usage.loops ? [plural(usage.loops, "loop")] : []),
    ...(firstToken === null ? [] : [`first token ${duration(firstToken)}`]),
    ...(rate === null ? [] : [`${figures(rate)} tokens/s`]),
    ...(stopped ? ["stopped"] : finish ? [`ended: ${finish}`] : []),
  ].join(" · ");
}
