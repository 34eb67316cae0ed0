// The texts of the pack's page modules in the user's language: web/texts/<locale>.json, English where there is none.

import { app } from "./comfy.js";
import { ENGLISH, textsIn } from "./text_files.js";

/** @typedef {import("./text_files.js").Texts} Texts */

/** The locale that the user has chosen on the page. */
export function userLocale() {
    return String(app.extensionManager?.setting?.get("Comfy.Locale") ?? ENGLISH);
}

/** @type {Promise<Texts> | undefined} */
let loaded;

/**
 * A function that gives the text of a key, with `{name}` replaced by the value of that name. The page is loaded anew
 * when its language is changed, so the files are read once.
 * @returns {Promise<Texts>}
 */
export function loadTexts() {
    return (loaded ??= textsIn(userLocale()));
}
