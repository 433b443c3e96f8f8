// What live sequences hold in the cache, beside what other layouts would hold; and what the loops do.

import { html } from "./dom.js";
import { bytes, count, figures, percent, plural } from "./format.js";
import { panel } from "./panels.js";

/** @typedef {import("./metrics.js").Metrics} Metrics */
/** @typedef {{name: string, group: string, bytes: number, style: string}} Part of a bar */

/** @param {Metrics} metrics @returns {Part[]} groups that hold something, the shared one first */
export function groupsOf(metrics) {
  const order = ["shared", "own", "window", "carry"];
  return metrics.all("kv_cache_bytes")
    .map(({ labels, value }) => ({
      group: labels.group,
      name: labels.group === "shared" ? "shared" : `${labels.group} of loop ${labels.loop}`,
      bytes: value,
      style: labels.group === "own" ? (labels.loop === "0" ? "shared" : "window") : labels.group,
      rank: order.indexOf(labels.group),
      loop: Number(labels.loop),
    }))
    .sort((one, other) => one.rank - other.rank || one.loop - other.loop);
}

/** KV bytes by group against both baselines. */
export class MemoryPanel {
  constructor() {
    this.value = html("strong", {});
    this.note = html("span", { class: "quiet" });
    this.bars = html("dl", { class: "bars" });
    this.more = html("p", { class: "quiet small" });
    this.element = panel("memory", "Cache of live sequences",
      html("p", { class: "headline" }, this.value, " ", this.note), this.bars, this.more);
  }

  /** @param {Metrics} metrics */
  show(metrics) {
    const groups = groupsOf(metrics);
    const ours = groups.reduce((sum, group) => sum + group.bytes, 0);
    const sequential = metrics.get("kv_cache_baseline_bytes", { layout: "sequential" });
    const oneLoop = metrics.get("kv_cache_baseline_bytes", { layout: "one_loop" });
    if (groups.length === 0) {
      this.value.textContent = "–";
      this.note.textContent = "not available in this server";
      return;
    }
    const tokens = metrics.get("live_tokens");
    this.value.textContent = bytes(ours);
    this.note.textContent = tokens === null ? "held" : `for ${count(tokens)} tokens`;
    const most = Math.max(ours, sequential ?? 0, oneLoop ?? 0);
    const baseline = (value, style) => (value === null ? [] : [{ name: "whole contexts", group: "own", bytes: value, style }]);
    const isOwn = groups.some(({ group }) => group === "own");
    this.bars.replaceChildren(
      ...bar(isOwn ? "as it is" : "loops share a cache", groups, most),
      ...bar("every loop its own", baseline(sequential, "sequential"), most),
      ...bar("without loops", baseline(oneLoop, "one-loop"), most));
    this.more.textContent = isOwn ? held(groups) : this.#comparison(metrics, ours, sequential, groups);
  }

  #comparison(metrics, ours, sequential, groups) {
    const parts = [held(groups)].filter(Boolean);
    if (sequential > 0 && ours > 0) {
      const saved = 1 - ours / sequential;
      parts.push(saved >= 0 ? `${percent(saved)} less than with a cache per loop.` : `${percent(-saved)} more than with a cache per loop: contexts are short.`);
    }
    const room = (layout) => metrics.get("kv_cache_sequences", { layout, length: "max_model_len" });
    if (room("shared") !== null && room("sequential") !== null) {
      parts.push(`There is room for ${plural(room("shared"), "sequence")} of full length; with a cache per loop, for ${count(room("sequential"))}.`);
    }
    return parts.join(" ");
  }
}

/** @param {Part[]} groups @returns {string} those that hold something, as a sentence */
function held(groups) {
  const names = groups.filter((group) => group.bytes > 0).map((group) => `${group.name} ${bytes(group.bytes)}`);
  return names.length ? `${names.join(", ")}.` : "";
}

/** @param {string} name @param {Part[]} parts @param {number} most bytes of the longest bar @returns {Node[]} */
function bar(name, parts, most) {
  const total = parts.reduce((sum, part) => sum + part.bytes, 0);
  const pieces = parts.filter((part) => part.bytes > 0).map((part) => {
    const piece = html("span", { class: `part ${part.style}`, title: `${part.name}: ${bytes(part.bytes)}` });
    piece.style.width = `${(100 * part.bytes) / most}%`;
    return piece;
  });
  return [
    html("dt", {}, name),
    html("dd", {}, html("span", { class: "track", "aria-hidden": "true" }, ...pieces), html("b", {}, parts.length ? bytes(total) : "–")),
  ];
}

/** Whether a further loop is worth it: signals of sampled passes, since the server's start. */
export class LoopsPanel {
  constructor() {
    this.body = html("tbody", {});
    const titles = ["Loop", "Rows", "Gate", "Change", "New top token"].map((title) => html("th", { scope: "col" }, title));
    this.table = html("table", {}, html("thead", {}, html("tr", {}, ...titles)), this.body);
    this.note = html("p", { class: "quiet small" });
    this.element = panel("loops-panel", "Loops", this.table, this.note);
  }

  /** @param {Metrics} metrics */
  show(metrics) {
    const rows = metrics.all("rows_total").map(({ labels, value }) => {
      const { loop } = labels;
      const mean = (name) => divided(metrics.get(`${name}_sum`, { loop }), metrics.get(`${name}_count`, { loop }));
      const changes = metrics.get("loop_top_token_changes_total", { loop });
      const sampled = metrics.get("loop_sampled_tokens_total", { loop });
      return html("tr", {},
        html("th", { scope: "row" }, loop),
        html("td", {}, count(value)),
        html("td", {}, figures(mean("loop_gate"))),
        html("td", {}, figures(mean("loop_change"))),
        html("td", {}, percent(divided(changes, sampled))));
    });
    this.body.replaceChildren(...rows);
    const sampled = metrics.get("loop_sampled_tokens_total", { loop: String(rows.length - 1) });
    this.note.textContent = !sampled ? "What the loops do has not been sampled yet."
      : `Gate (towards the shared context), change of the hidden state and new top token: against the loop before, of ${count(sampled)} sampled tokens.`;
  }
}

/** @param {number | null} one @param {number | null} other @returns {number | null} */
function divided(one, other) {
  return one === null || other === null || other === 0 ? null : one / other;
}
