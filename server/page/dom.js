// Elements without markup: everything that is shown is a text node, as a model may write anything.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node | string | number | null} Child */

/**
 * @param {string} tag
 * @param {Record<string, string | number | boolean | null>} [attributes] true sets an empty one, false and null none
 * @param {...Child} children strings and numbers become text
 * @returns {HTMLElement}
 */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * @param {string} tag
 * @param {Record<string, string | number | boolean | null>} [attributes]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** @param {string} id @returns {any} an element that index.html has */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * @param {HTMLElement} element shown with this text, or hidden without any
 * @param {string | null} text
 */
export function say(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
  return element;
}
