// Draws what a node of this pack tells when it has run (nodes/notes.py): warnings first, then facts.
//
// ComfyUI itself draws `ui` texts on Preview Any only. Without this module everything still works; the lines are then
// only in the history. The widget is not saved with the workflow.

import { app } from "../../scripts/app.js";

const UI_KEY = "liveavatar_notes";
const WARNING_MARK = "⚠";
const WIDGET = "liveavatar_notes";
const PROGRESS_WIDGET = "$$node-text-preview";
const LINE_HEIGHT = 16;
const PADDING = 4;
const MARGIN = 4;
const MAX_HEIGHT = 220;

/** One line of text as an element; warnings stand out. */
function lineElement(text) {
    const line = document.createElement("div");
    line.textContent = text;
    line.style.overflowWrap = "anywhere";
    if (text.startsWith(WARNING_MARK)) {
        line.style.color = "#f5b642";
        line.style.fontWeight = "600";
    }
    return line;
}

/** The box that holds the lines; its text can be selected and copied. */
function boxElement() {
    const box = document.createElement("div");
    box.className = "liveavatar-notes";
    Object.assign(box.style, {
        boxSizing: "border-box",
        width: "100%",
        // The classic renderer gives the height; Nodes 2.0 makes as much room as the lines need, up to this.
        height: "100%",
        maxHeight: `${MAX_HEIGHT - 2 * MARGIN}px`,
        overflowY: "auto",
        padding: `${PADDING}px`,
        fontSize: "11px",
        lineHeight: `${LINE_HEIGHT}px`,
        color: "var(--input-text, #ddd)",
        whiteSpace: "pre-wrap",
        userSelect: "text",
        outline: "none",
    });
    // Nodes 2.0 leaves the wheel to an element that says so and was clicked, as its own text fields.
    box.dataset.captureWheel = "true";
    box.tabIndex = -1;
    // The canvas would take the wheel and the drag that scroll and select this text.
    for (const kind of ["wheel", "pointerdown"]) {
        box.addEventListener(kind, (event) => {
            if (kind === "pointerdown" || box.scrollHeight > box.clientHeight) event.stopPropagation();
        });
    }
    return box;
}

/** How high the lines are at the node's width. */
function neededHeight(node, lines) {
    const charsPerLine = Math.max(20, Math.floor((node.size[0] - 40) / 5.6));
    const rows = lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / charsPerLine)), 0);
    return Math.min(MAX_HEIGHT, rows * LINE_HEIGHT + 2 * (PADDING + MARGIN));
}

/** The node's widget for its lines, made when it is first needed. */
function notesWidget(node) {
    const known = node.widgets?.find((widget) => widget.name === WIDGET);
    if (known) return known;
    const box = boxElement();
    const widget = node.addDOMWidget(WIDGET, "LIVEAVATAR_NOTES", box, {
        serialize: false,
        hideOnZoom: false,
        margin: MARGIN,
        getMinHeight: () => widget.notesHeight ?? LINE_HEIGHT,
        getMaxHeight: () => widget.notesHeight ?? LINE_HEIGHT,
    });
    widget.serialize = false;
    // Above the video, which ComfyUI appends later or has appended already.
    const preview = node.widgets.findIndex((other) => /preview/.test(other.name) && other !== widget);
    if (preview >= 0) {
        node.widgets.splice(node.widgets.indexOf(widget), 1);
        node.widgets.splice(preview, 0, widget);
    }
    return widget;
}

/** Takes away the front end's progress text, which would go on to say what the node was doing last. */
function removeProgressText(node) {
    const place = node.widgets?.findIndex((widget) => widget.name === PROGRESS_WIDGET) ?? -1;
    if (place >= 0) node.widgets.splice(place, 1)[0].onRemove?.();
}

function showNotes(node, lines) {
    if (!Array.isArray(lines) || typeof node.addDOMWidget !== "function") return;
    removeProgressText(node);
    if (!lines.length && !node.widgets?.some((widget) => widget.name === WIDGET)) return;
    const widget = notesWidget(node);
    widget.element.replaceChildren(...lines.map(lineElement));
    widget.notesHeight = neededHeight(node, lines);
    // No higher than needed: a node that has room, as those of the templates have, must not grow over what stands below.
    node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1])]);
    node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
    name: "LiveAvatar.Notes",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("LiveAvatar_")) return;
        const onExecuted = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output, ...rest) {
            onExecuted?.call(this, output, ...rest);
            showNotes(this, output?.[UI_KEY]);
        };
    },
});
