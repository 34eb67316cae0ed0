// Shows what the pack's nodes tell in the page's language: notes, progress texts and errors.
//
// The server tells everybody in English, so that a prompt sent without the page, the log and a search for a message
// find the same words. Without this module, or without a table for the language, the page shows them as they come.

import { api, app } from "./comfy.js";
import { Translator } from "./message_matcher.js";
import { userLocale } from "./texts.js";

/** Languages with a table in messages/. */
const LANGUAGES = ["zh"];
const OURS = /^LiveAvatar_/;
/** Errors of the pack (liveavatar_runtime/errors.py), which a node of others raises too when it uses our objects. */
const ERRORS = ["InputError", "CheckpointError", "MachineError", "MemoryShortage", "DeviceFullError"];

/** @type {Translator | null} */
let translator = null;

/** Reads the table of the page's language. */
async function readTable() {
    const language = userLocale();
    translator = null;
    if (!LANGUAGES.includes(language)) return;
    const answer = await fetch(new URL(`./messages/${language}.json`, import.meta.url));
    if (answer.ok) translator = new Translator(await answer.json());
}

/**
 * A message of the pack's in the page's language.
 * @param {string} message
 * @returns {string}
 */
export function translated(message) {
    return translator?.translate(message) ?? message;
}

/** @param {string} nodeId */
function isForeign(nodeId) {
    // Of nodes inside subgraphs the id is a path, which says nothing here.
    const type = app.graph?.getNodeById?.(nodeId)?.comfyClass;
    return type !== undefined && !OURS.test(type);
}

/** @param {CustomEvent} event */
function translateProgress({ detail }) {
    if (typeof detail?.text === "string" && !isForeign(detail.nodeId)) detail.text = translated(detail.text);
}

/** @param {CustomEvent} event */
function translateError({ detail }) {
    const isOurs = OURS.test(detail?.node_type ?? "") || ERRORS.includes(detail?.exception_type);
    if (isOurs && detail.exception_message) detail.exception_message = translated(detail.exception_message);
}

/**
 * ComfyUI puts the name of an input in front of what our checks say.
 * @param {string} details
 */
function translateDetails(details) {
    const [, input = "", text = ""] = /^(\w+ - )([^]*)$/.exec(details) ?? [];
    return text ? input + translated(text) : translated(details);
}

/** @param {import("./comfy_types").Refusals | undefined} answer */
function translateRefusals(answer) {
    for (const node of Object.values(answer?.node_errors ?? {})) {
        if (!OURS.test(node.class_type)) continue;
        for (const error of node.errors ?? []) if (error.details) error.details = translateDetails(error.details);
    }
}

/** No event tells what the server answered to a prompt, and no hook is called with it; so its function is wrapped. */
function translateAnswers() {
    const queuePrompt = api.queuePrompt;
    api.queuePrompt = async function (...request) {
        try {
            const answer = await queuePrompt.apply(this, request);
            translateRefusals(answer);
            return answer;
        } catch (error) {
            translateRefusals(/** @type {any} */ (error)?.response);
            throw error;
        }
    };
}

app.registerExtension({
    name: "LiveAvatar.Messages",
    async init() {
        await readTable();
        app.ui?.settings?.addEventListener?.("Comfy.Locale.change", readTable);
        // Capturing listeners are called first, whoever has listened earlier.
        api.addEventListener("progress_text", translateProgress, { capture: true });
        api.addEventListener("execution_error", translateError, { capture: true });
        translateAnswers();
    },
});
