// Shows the pack's templates in the user's language: titles of nodes and groups, and the note, which the files hold in
// English (scripts/build_workflows.py). What a user has changed is left alone.

import { app } from "../../scripts/app.js";

const ENGLISH = "en";
const TEXTS = (locale) => new URL(`./templates/${locale}.json`, import.meta.url);

/** English text -> text of a locale, or null where there is no translation. */
async function dictionary(locale) {
    const [english, translated] = await Promise.all(
        [ENGLISH, locale].map(async (name) => {
            const answer = await fetch(TEXTS(name));
            return answer.ok ? answer.json() : null;
        }),
    );
    if (!english || !translated) return null;
    const pairs = ["titles", "notes"].flatMap((part) =>
        Object.entries(english[part]).map(([key, text]) => [text, translated[part][key]]),
    );
    return new Map(pairs.filter(([, text]) => text));
}

function translateGraph(graph, texts) {
    const translated = (text) => texts.get(text) ?? text;
    for (const node of graph.nodes) {
        node.title = translated(node.title);
        if (node.type !== "MarkdownNote") continue;
        for (const widget of node.widgets ?? []) widget.value = translated(widget.value);
    }
    for (const group of graph.groups ?? []) group.title = translated(group.title);
    graph.setDirtyCanvas?.(true, true);
}

app.registerExtension({
    name: "LiveAvatar.Templates",
    async afterConfigureGraph() {
        const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? ENGLISH;
        // Read before waiting: another workflow may be open afterwards.
        const graph = app.graph;
        if (locale === ENGLISH || !graph?.extra?.liveavatar_template) return;
        const texts = await dictionary(locale);
        if (texts && app.graph === graph) translateGraph(graph, texts);
    },
});
