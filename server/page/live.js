// The live part: asks the server every second and shows what it says.

import { ApiFailure } from "./api.js";
import { BlocksPanel } from "./blocks.js";
import { byId, say } from "./dom.js";
import { LoopsPanel, MemoryPanel } from "./memory.js";
import { Metrics } from "./metrics.js";
import { DecodePanel, LatencyPanel, SequencesPanel, ThroughputPanel } from "./panels.js";
import { Poller } from "./poll.js";
import { read, Readings } from "./readings.js";

/** Polls and shows. Dispatches "up" whenever the engine has become ready. */
export class Live extends EventTarget {
  #wasUp = false;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
    this.readings = new Readings();
    this.blocks = new BlocksPanel(api);
    this.overTime = [new DecodePanel(), new ThroughputPanel(), new LatencyPanel(), new SequencesPanel()];
    this.ofNow = [new MemoryPanel(), new LoopsPanel()];
    const [decode, ...others] = this.overTime;
    const panels = [decode, this.ofNow[0], ...others, this.blocks, this.ofNow[1]];
    byId("panels").append(...panels.map((one) => one.element));
    this.poller = new Poller(() => this.#ask(), (failure, wait) => this.#onFailure(failure, wait));
    const pause = byId("pause");
    pause.addEventListener("click", () => {
      const paused = pause.getAttribute("aria-pressed") !== "true";
      pause.setAttribute("aria-pressed", String(paused));
      this.poller.paused = paused;
    });
    api.addEventListener("key", () => this.poller.poke());
  }

  async #ask() {
    const metrics = new Metrics(await (await this.api.request("metrics")).text());
    this.readings.add(read(metrics, performance.now() / 1000));
    for (const panel of this.overTime) panel.show(this.readings);
    for (const panel of this.ofNow) panel.show(metrics);
    this.#showState(metrics.get("engine_up") === 1);
    say(byId("live-problem"), null);
    await this.blocks.ask();
  }

  /** @param {boolean} up */
  #showState(up) {
    showState(up ? "ready" : "not ready");
    if (up && !this.#wasUp) this.dispatchEvent(new Event("up"));
    this.#wasUp = up;
  }

  /** @param {any} failure @param {number} wait seconds @returns {boolean} whether to go on asking */
  #onFailure(failure, wait) {
    this.#wasUp = false;
    if (!(failure instanceof ApiFailure)) console.error(failure);
    if (failure.status === 401) { // each try would count as an intruder's; a new key makes it go on
      showState("needs a key");
      say(byId("live-problem"), failure.message);
      return false;
    }
    showState(failure.status ? "trouble" : "not reachable");
    say(byId("live-problem"), `${failure.message} Next try in ${wait} s.`);
    return true;
  }
}

/** @param {string} words */
function showState(words) {
  const state = byId("state");
  if (state.textContent !== words) state.textContent = words; // so that it is read out once
  state.dataset.good = String(words === "ready");
}
