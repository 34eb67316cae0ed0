// The texts of the pack's page modules in the user's language: web/texts/<locale>.json, English where there is none.

import { app } from "./comfy.js";

const ENGLISH = "en";
const FILE = (/** @type {string} */ locale) => new URL(`./texts/${locale}.json`, import.meta.url);
const LOCALES = [ENGLISH, "zh"];
/** A space between two Chinese characters, which a value has brought there. */
const BETWEEN_CHINESE = /(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])/g;

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Texts */

/** The locale that the user has chosen on the page. */
export function userLocale() {
    return String(app.extensionManager?.setting?.get("Comfy.Locale") ?? ENGLISH);
}

/**
 * @param {string} locale
 * @returns {Promise<Record<string, string>>}
 */
async function read(locale) {
    if (!LOCALES.includes(locale)) return {};
    const answer = await fetch(FILE(locale));
    return answer.ok ? answer.json() : {};
}

/** @type {Promise<Texts> | undefined} */
let loaded;

async function load() {
    const [english, own] = await Promise.all([read(ENGLISH), read(userLocale())]);
    const known = { ...english, ...own };
    return (/** @type {string} */ key, /** @type {Record<string, string | number>} */ values = {}) =>
        (known[key] ?? key)
            .replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole))
            .replace(BETWEEN_CHINESE, "");
}

/**
 * A function that gives the text of a key, with `{name}` replaced by the value of that name. The page is loaded anew
 * when its language is changed, so the files are read once.
 * @returns {Promise<Texts>}
 */
export function loadTexts() {
    return (loaded ??= load());
}
