// The page's words in the reader's language, and numbers as that language writes them.

import { en } from "./words.en.js";
import { zh } from "./words.zh.js";

const WORDS = { en, zh };
const listeners = [];
let language = "en";

export const currentLanguage = () => language;

/** The words for a key, with {names} filled in. */
export function say(key, values = {}) {
  return WORDS[language][key].replaceAll(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Call `render` now and whenever the language changes. */
export function spoken(render) {
  listeners.push(render);
  render();
}

export function speak(wanted) {
  language = wanted;
  document.documentElement.lang = wanted === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-say-label]"))
    element.setAttribute("aria-label", say(element.dataset.sayLabel));
  for (const render of listeners) render();
}

/** The first of the browser's languages that the page speaks. */
export function preferred() {
  const wanted = navigator.languages.map((each) => each.slice(0, 2));
  return wanted.find((each) => each in WORDS) ?? "en";
}

const format = (value, options) => new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", options).format(value);

export const whole = (value) => format(value, { maximumFractionDigits: 0 });
export const short = (value) => format(value, { maximumSignificantDigits: 3 });
export const percent = (share, digits = 1) =>
  format(share, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });

/** A probability: what is rounded to certainty is not certain. */
export const sureness = (share) => (share > 0.9995 ? `>\u2060${percent(0.999)}` : percent(share));
export const milliseconds = (value) =>
  value < 1000
    ? `${format(value, { maximumSignificantDigits: value < 100 ? 2 : 3 })}\u00a0ms`
    : `${short(value / 1000)}\u00a0s`;

export function bytes(value) {
  const unit = Math.min(3, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${short(value / 1024 ** unit)}\u00a0${["B", "KiB", "MiB", "GiB"][unit]}`;
}
