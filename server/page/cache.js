// The answer of `GET /cache`, as the block map draws it.

/** @typedef {"shared" | "window" | "cached" | "free"} Kind held by the first loop, held by a later one, reusable, free */

/** @param {{group: string, loop: number}} state @returns {Kind} where loops have contexts of their own, too, the first is told apart */
const heldKind = ({ group, loop }) => (group === "own" ? (loop === 0 ? "shared" : "window") : /** @type {Kind} */ (group));

/**
 * @typedef {object} BlockMap
 * @property {number} total blocks of the pool
 * @property {number} perCell blocks that a cell stands for
 * @property {Record<Kind, number>} counts exact
 * @property {Kind[]} cells what most blocks of each cell are, in the pool's order
 */

/** @type {Kind[]} */
export const KINDS = ["shared", "window", "cached", "free"];

/** @param {any} answer @returns {BlockMap} */
export function readMap(answer) {
  /** @type {Kind[]} */
  const kinds = answer.states.map((/** @type {any} */ each) => (each.state === "held" ? heldKind(each) : each.state));
  const counts = { shared: 0, window: 0, cached: 0, free: 0 };
  answer.states.forEach(({ blocks }, i) => { counts[kinds[i]] += blocks; });
  return {
    total: answer.num_blocks,
    perCell: answer.blocks_per_cell,
    counts,
    cells: answer.cells.map((/** @type {number} */ index) => kinds[index]),
  };
}
