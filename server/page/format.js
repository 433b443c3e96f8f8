// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const WHOLE = new Intl.NumberFormat("en");
const NOTHING = "–";

/** @param {number | null | undefined} value @returns {string} such as 1,234; a dash for nothing */
export function count(value) {
  return value == null ? NOTHING : WHOLE.format(Math.round(value));
}

/** @param {number | null} value @returns {string} three figures, such as 0.123, 12.3 or 1,234 */
export function figures(value) {
  if (value == null) return NOTHING;
  return Math.abs(value) >= 100 ? count(value) : String(Number(value.toPrecision(3)));
}

/** @param {number | null} seconds @returns {string} in the unit that suits */
export function duration(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds < 0.001) return `${figures(seconds * 1e6)} µs`;
  return seconds < 1 ? `${figures(seconds * 1e3)} ms` : `${figures(seconds)} s`;
}

/** @param {number | null} value @returns {string} such as 1.5 MiB */
export function bytes(value) {
  if (value == null) return NOTHING;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count(value) : figures(value)} ${UNITS[unit]}`;
}

/** @param {number | null} share 0 to 1 @returns {string} such as 12 % or 0.3 % */
export function percent(share) {
  if (share == null) return NOTHING;
  const value = share * 100;
  return `${value >= 10 || value === 0 ? Math.round(value) : Number(value.toPrecision(1))} %`;
}

/** @param {number} amount @param {string} one @param {string} [many] @returns {string} such as "1 token" */
export function plural(amount, one, many = `${one}s`) {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}
