// Shows on Duration Calc, Audio Encode and Clip Scheduler what their inputs amount to, before a run.
//
// Without this module everything still works: the nodes tell the same when they have run. Nothing of it is saved.

import { app } from "./comfy.js";
import { allGraphs } from "./graph_values.js";
import { isLive, linesOf } from "./live_lines.js";
import { findBox, moveBefore, showLines, textBox } from "./text_box.js";
import { loadTexts } from "./texts.js";

/** @typedef {import("./comfy_types").GraphNode} GraphNode */
/** @typedef {import("./texts.js").Texts} Texts */

const WIDGET = "liveavatar_live";
const NOTES = "liveavatar_notes";
/**
 * How often the nodes are looked at. What a node shows may depend on widgets of any other node, on links, on undo and
 * on other packs, and no event tells of all of them; to look takes a millisecond or two a node.
 */
const EVERY_MS = 200;

/** Lines by node, as they are shown. @type {WeakMap<GraphNode, string>} */
const shown = new WeakMap();

/** @param {GraphNode} node @param {Texts} t */
async function refresh(node, t) {
    const lines = await linesOf(node, t);
    const text = JSON.stringify([lines, node.size[0]]);
    if (shown.get(node) === text && findBox(node, WIDGET)) return;
    shown.set(node, text);
    const widget = textBox(node, WIDGET);
    if (!widget) return;
    moveBefore(node, widget, (name) => name === NOTES);
    showLines(node, widget, lines);
}

/** Nodes that are being looked at. @type {WeakSet<GraphNode>} */
const busy = new WeakSet();

/** @param {GraphNode} node @param {Texts} t */
async function refreshOnce(node, t) {
    if (busy.has(node)) return;
    busy.add(node);
    try {
        await refresh(node, t);
    } finally {
        busy.delete(node);
    }
}

async function refreshAll() {
    if (document.hidden) return;
    const t = await loadTexts();
    const nodes = allGraphs().flatMap((graph) => graph.nodes ?? []);
    await Promise.all(nodes.filter(isLive).map((node) => refreshOnce(node, t)));
}

app.registerExtension({
    name: "LiveAvatar.Live",
    setup() {
        setInterval(() => void refreshAll(), EVERY_MS);
    },
});
