// A preset of Clip Scheduler on the page: chosen, it fills the widgets that it decides; an edit of one of these returns
// to `custom`.
//
// The server decides by the preset alone, so without this module everything works too. Values that are loaded, pasted
// or undone are left as they are: only a person's edit calls a widget's callback.

import { app } from "./comfy.js";
import { CLIP_SCHEDULER } from "./live_values.js";
import { CUSTOM, decidedBy, decidedWidgets, PRESET, readPresets } from "./plan_presets.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./comfy_types").Widget} Widget
 */

/** Nodes whose widgets are being filled. @type {WeakSet<GraphNode>} */
const filling = new WeakSet();

/** @param {GraphNode} node @param {string} name */
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** What the chosen preset decides. @param {GraphNode} node */
function decidedOn(node) {
    const [size, width, height] = ["size", "width", "height"].map((name) => widgetOf(node, name)?.value);
    return decidedBy(widgetOf(node, PRESET)?.value, { size, width, height });
}

/**
 * Gives a widget a value as an edit does, so that whoever listens to it knows.
 * @param {GraphNode} node
 * @param {string} name
 * @param {unknown} value
 */
function edit(node, name, value) {
    const widget = widgetOf(node, name);
    if (!widget || widget.value === value) return;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
}

/** @param {GraphNode} node */
function fill(node) {
    const decided = decidedOn(node);
    if (!decided) return;
    filling.add(node);
    try {
        for (const [name, value] of Object.entries(decided)) edit(node, name, value);
    } finally {
        filling.delete(node);
    }
    node.setDirtyCanvas?.(true, true);
}

/** @param {GraphNode} node @param {string} name of a widget that was edited */
function leavePreset(node, name) {
    if (filling.has(node)) return;
    const decided = decidedOn(node);
    if (decided && name in decided && widgetOf(node, name)?.value !== decided[name]) edit(node, PRESET, CUSTOM);
}

/**
 * Calls `then` after each edit of a widget.
 * @param {GraphNode} node
 * @param {string} name
 * @param {() => void} then
 */
function afterEdit(node, name, then) {
    const widget = widgetOf(node, name);
    if (!widget) return;
    const callback = widget.callback;
    widget.callback = function (...values) {
        const result = callback?.apply(this, values);
        then();
        return result;
    };
}

app.registerExtension({
    name: "LiveAvatar.Presets",
    beforeRegisterNodeDef(_, nodeData) {
        if (nodeData.name === CLIP_SCHEDULER) readPresets(nodeData);
    },
    nodeCreated(node) {
        if ((node.comfyClass ?? node.type) !== CLIP_SCHEDULER) return;
        afterEdit(node, PRESET, () => fill(node));
        for (const name of decidedWidgets()) afterEdit(node, name, () => leavePreset(node, name));
    },
});
