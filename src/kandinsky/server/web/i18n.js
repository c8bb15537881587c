// What the page says, in English and Russian.
import { EN } from "./en.js";
import { RU } from "./ru.js";

/** @typedef {keyof typeof EN} Key */
/** @typedef {string | Partial<Record<Intl.LDMLPluralRule, string>>} Phrase */

/** @type {Record<string, Record<Key, Phrase>>} */
const TEXTS = { en: EN, ru: RU };

let language = localStorage.getItem("language") ?? (navigator.language.startsWith("ru") ? "ru" : "en");
if (!(language in TEXTS)) language = "en";

export function lang() {
  return language;
}

/** @param {string} to */
export function speak(to) {
  language = to;
  localStorage.setItem("language", to);
  document.documentElement.lang = to;
}

/**
 * A phrase; {name} stands for a value, and where there are forms `n` chooses one.
 * @param {Key} key @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const phrase = /** @type {Phrase} */ (TEXTS[language]?.[key] ?? EN[key] ?? key);
  const form = typeof phrase === "string" ? phrase : (phrase[plural(Number(values.n ?? 0))] ?? phrase.other ?? "");
  return form.replace(/\{(\w+)\}/g, (all, name) => (name in values ? shown(values[name] ?? "") : all));
}

/** @param {number} n */
function plural(n) {
  return new Intl.PluralRules(language).select(n);
}

/** @param {string | number} value */
function shown(value) {
  return typeof value === "number" ? new Intl.NumberFormat(language, { maximumFractionDigits: 2, useGrouping: false }).format(value) : value;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return t("seconds", { n: Math.max(1, Math.round(seconds)) });
  return t("minutes", { n: Math.round(seconds / 60) });
}
