// The texts of the pack's modules in a language, for any page: web/texts/<locale>.json, English where there is none.

export const ENGLISH = "en";
const FILE = (/** @type {string} */ locale) => new URL(`./texts/${locale}.json`, import.meta.url);
const LOCALES = [ENGLISH, "zh"];
/** A space between two Chinese characters, which a value has brought there. */
const BETWEEN_CHINESE = /(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])/g;

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Texts */

/**
 * @param {string} locale
 * @returns {Promise<Record<string, string>>}
 */
async function read(locale) {
    if (!LOCALES.includes(locale)) return {};
    const answer = await fetch(FILE(locale));
    return answer.ok ? answer.json() : {};
}

/**
 * A function that gives the text of a key, with `{name}` replaced by the value of that name.
 * @param {string} locale
 * @returns {Promise<Texts>}
 */
export async function textsIn(locale) {
    const [english, own] = await Promise.all([read(ENGLISH), read(locale)]);
    const known = { ...english, ...own };
    return (/** @type {string} */ key, /** @type {Record<string, string | number>} */ values = {}) =>
        (known[key] ?? key)
            .replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole))
            .replace(BETWEEN_CHINESE, "");
}
