// Elements are made here, from names, attributes and text; never from a string of HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element; attributes that are null or false are left out, and functions listen to the event they are named by. */
export function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat());
  return element;
}

/** A custom property for the style sheet; style attributes are not allowed by the page's policy. */
export function vary(element, name, value) {
  element.style.setProperty(name, value);
  return element;
}

/** The value of a custom property of the style sheet, as it is in the theme of the moment. */
export const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Call `paint` whenever the system's theme changes. */
export function onTheme(paint) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
}

export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
