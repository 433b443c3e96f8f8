// The block map: where in the pool which group's blocks lie.

import { ApiFailure } from "./api.js";
import { KINDS, readMap } from "./cache.js";
import { html } from "./dom.js";
import { count, plural } from "./format.js";
import { panel } from "./panels.js";

const NAMES = { shared: "of the first loop", window: "of later loops", cached: "kept for reuse", free: "free" };
const MAX_HEIGHT = 132; // pixels of the whole map
const STEPS = { least: 3, most: 11 }; // pixels from cell to cell
const MOST_SKIPPED = 32;

/** Asks for the map and draws it on a canvas. */
export class BlocksPanel {
  /** @type {import("./cache.js").BlockMap | null} */
  #map = null;
  #failures = 0;
  #toSkip = 0;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.canvas = html("canvas", { class: "map", role: "img" });
    this.swatches = KINDS.map((kind) => html("span", { class: `cell ${kind}` }));
    this.counts = KINDS.map(() => html("b", {}));
    const legend = KINDS.map((kind, i) => html("li", {}, this.swatches[i], `${NAMES[kind]} `, this.counts[i]));
    this.note = html("p", { class: "quiet small" });
    this.shown = html("div", { hidden: true }, this.canvas, html("ul", { class: "legend" }, ...legend));
    this.element = panel("blocks", "Blocks of the cache", this.shown, this.note);
    document.addEventListener("themechange", () => this.#draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  /** Ask the server. A failure is this panel's alone, which asks less and less often then. */
  async ask() {
    if (this.#toSkip > 0) {
      this.#toSkip -= 1;
      return;
    }
    try {
      this.#map = readMap(await this.api.json("cache"));
    } catch (failure) {
      if (!(failure instanceof ApiFailure)) throw failure;
      this.#failures += 1;
      this.#toSkip = Math.min(2 ** this.#failures, MOST_SKIPPED);
      this.#map = null;
      this.shown.hidden = true;
      this.note.textContent = failure.status === 404 ? "Not available in this server." : failure.message;
      return;
    }
    this.#failures = 0;
    this.#show(this.#map);
  }

  /** @param {import("./cache.js").BlockMap} map */
  #show(map) {
    this.shown.hidden = false;
    const words = KINDS.map((kind) => `${count(map.counts[kind])} ${NAMES[kind]}`).join(", ");
    this.canvas.setAttribute("aria-label", `${plural(map.total, "block")}: ${words}.`);
    KINDS.forEach((kind, i) => { this.counts[i].textContent = count(map.counts[kind]); });
    this.note.textContent = map.perCell === 1 ? "" : `A square is ${count(map.perCell)} blocks, coloured as most of them are.`;
    this.#draw();
  }

  #draw() {
    const map = this.#map;
    const width = this.canvas.clientWidth;
    if (map === null || width === 0) return;
    const { step, columns, height } = grid(width, map.cells.length);
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    // The swatches' colours: a canvas knows nothing of the style sheet.
    const colours = Object.fromEntries(KINDS.map((kind, i) => [kind, getComputedStyle(this.swatches[i]).backgroundColor]));
    const size = step - (step > 6 ? 1.5 : 0.75);
    map.cells.forEach((kind, index) => {
      context.fillStyle = colours[kind];
      context.fillRect((index % columns) * step, Math.floor(index / columns) * step, size, size);
    });
  }
}

/**
 * Cells as large as fit in a box of this width and `MAX_HEIGHT`.
 * @param {number} width pixels
 * @param {number} cells
 * @returns {{step: number, columns: number, height: number}} pixels
 */
export function grid(width, cells) {
  const ideal = Math.sqrt((width * MAX_HEIGHT) / Math.max(1, cells));
  const step = Math.max(STEPS.least, Math.min(STEPS.most, ideal));
  const columns = Math.max(1, Math.floor(width / step));
  return { step, columns, height: Math.ceil(cells / columns) * step };
}
