// Shows the pack's templates in the user's language: titles of nodes and groups, and the note, which the files hold in
// English (scripts/build_workflows.py). What a user has changed is left alone.

import { app } from "./comfy.js";
import { userLocale } from "./texts.js";

/** @typedef {{ titles: Record<string, string>, notes: Record<string, string> }} TemplateTexts */

const ENGLISH = "en";
const TRANSLATED = ["zh"];
const FILE = (/** @type {string} */ locale) => new URL(`./templates/${locale}.json`, import.meta.url);

/**
 * English text -> text of a locale, or null where there is no translation.
 * @param {string} locale
 */
async function dictionary(locale) {
    /** @type {(TemplateTexts | null)[]} */
    const [english, translated] = await Promise.all(
        [ENGLISH, locale].map(async (name) => {
            const answer = await fetch(FILE(name));
            return answer.ok ? answer.json() : null;
        }),
    );
    if (!english || !translated) return null;
    /** @type {Map<string, string>} */
    const texts = new Map();
    for (const part of /** @type {const} */ (["titles", "notes"])) {
        for (const [key, text] of Object.entries(english[part])) {
            if (translated[part][key]) texts.set(text, translated[part][key]);
        }
    }
    return texts;
}

/**
 * @param {import("./comfy_types").Graph} graph
 * @param {Map<string, string>} texts
 */
function translateGraph(graph, texts) {
    const translated = (/** @type {string} */ text) => texts.get(text) ?? text;
    for (const node of graph.nodes) {
        node.title = translated(node.title);
        if (node.type !== "MarkdownNote") continue;
        for (const widget of node.widgets ?? []) widget.value = translated(String(widget.value));
    }
    for (const group of graph.groups ?? []) group.title = translated(group.title);
    graph.setDirtyCanvas?.(true, true);
}

app.registerExtension({
    name: "LiveAvatar.Templates",
    async afterConfigureGraph() {
        const locale = userLocale();
        // Read before waiting: another workflow may be open afterwards.
        const graph = app.graph;
        if (!TRANSLATED.includes(locale) || !graph?.extra?.liveavatar_template) return;
        const texts = await dictionary(locale);
        if (texts && app.graph === graph) translateGraph(graph, texts);
    },
});
