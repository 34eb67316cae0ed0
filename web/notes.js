// Draws what a node of this pack tells when it has run (nodes/notes.py): warnings first, then facts.
//
// ComfyUI itself draws `ui` texts on Preview Any only. Without this module everything still works; the lines are then
// only in the history. The widget is not saved with the workflow.

import { app } from "./comfy.js";
import { translated } from "./messages.js";
import { findBox, moveBefore, showLines, textBox } from "./text_box.js";

/** @typedef {import("./comfy_types").GraphNode} GraphNode */

const UI_KEY = "liveavatar_notes";
const WIDGET = "liveavatar_notes";
const LIVE_WIDGET = "liveavatar_live";
const WARNING_MARK = "⚠ ";
const PROGRESS_WIDGET = "$$node-text-preview";

/**
 * Takes away the front end's progress text, which would go on to say what the node was doing last.
 * @param {GraphNode} node
 */
export function removeProgressText(node) {
    const place = node.widgets?.findIndex((widget) => widget.name === PROGRESS_WIDGET) ?? -1;
    if (place >= 0) node.widgets?.splice(place, 1)[0].onRemove?.();
}

/**
 * A line in the page's language, with its mark.
 * @param {string} line
 */
function inPageLanguage(line) {
    const mark = line.startsWith(WARNING_MARK) ? WARNING_MARK : "";
    return mark + translated(line.slice(mark.length));
}

/**
 * @param {GraphNode} node
 * @param {unknown} lines
 */
function showNotes(node, lines) {
    if (!Array.isArray(lines)) return;
    removeProgressText(node);
    const live = findBox(node, LIVE_WIDGET)?.lines ?? [];
    // What stands there already is not told twice.
    const others = lines.map(inPageLanguage).filter((line) => !live.includes(line));
    if (!others.length && !findBox(node, WIDGET)) return;
    const widget = textBox(node, WIDGET);
    if (!widget) return;
    // Above the video, which ComfyUI or the player appends later or has appended already.
    moveBefore(node, widget, (name) => /preview|player/.test(name));
    showLines(node, widget, others);
}

app.registerExtension({
    name: "LiveAvatar.Notes",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("LiveAvatar_")) return;
        const onExecuted = nodeType.prototype.onExecuted;
        /** @type {GraphNode["onExecuted"]} */
        nodeType.prototype.onExecuted = function (output, ...rest) {
            onExecuted?.call(this, output, ...rest);
            showNotes(this, output?.[UI_KEY]);
        };
    },
});
