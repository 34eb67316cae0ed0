// The line on DiT Sampler that changes while blocks are sampled (comfy_bridge/sampling_report.py), under the node's notes.
//
// It stays when the run has ended, until the next one; what is worth keeping of it is among Online VAE Decode's notes.

import { api, app } from "./comfy.js";
import { nodeOfMessage } from "./message_nodes.js";
import { translated } from "./messages.js";
import { removeProgressText } from "./notes.js";
import { moveBefore, showLines, textBox } from "./text_box.js";

/** @typedef {{ node: string, workflow: string, text: string, warnings: string[], hints?: string[] }} Message */

const EVENT = "liveavatar.pace";
const WIDGET = "liveavatar_pace";
const WARNING_MARK = "⚠ ";

/** @param {Message} message */
function showPace(message) {
    const node = nodeOfMessage(message);
    if (!node) return;
    const widget = textBox(node, WIDGET);
    if (!widget) return;
    removeProgressText(node);
    moveBefore(node, widget, (name) => /preview/.test(name));
    const before = widget.linesHeight ?? 0;
    const warnings = message.warnings.map((text) => WARNING_MARK + translated(text));
    showLines(node, widget, [...warnings, translated(message.text), ...(message.hints ?? []).map(translated)]);
    // The node would jump with every word that wraps.
    widget.linesHeight = Math.max(before, widget.linesHeight ?? 0);
}

app.registerExtension({
    name: "LiveAvatar.Pace",
    setup() {
        api.addEventListener(EVENT, ({ detail }) => showPace(detail));
    },
});
