// Lines of text on a node, in a widget that both renderers draw and that is not saved with the workflow.

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./comfy_types").TextWidget} TextWidget
 */

const WARNING_MARK = "⚠";
const LINE_HEIGHT = 16;
const PADDING = 4;
const MARGIN = 4;
const MAX_HEIGHT = 220;
const CHARACTER_WIDTH = 5.6;
/** Chinese and other wide characters take as much as two others. */
const WIDE = /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]/gu;

/**
 * One line of text as an element; warnings stand out.
 * @param {string} text
 */
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

/**
 * The box that holds the lines; its text can be selected and copied.
 * @param {string} className
 */
function boxElement(className) {
    const box = document.createElement("div");
    box.className = className;
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

/**
 * How high the lines are at the node's width.
 * @param {GraphNode} node
 * @param {string[]} lines
 */
function neededHeight(node, lines) {
    const perLine = Math.max(20, Math.floor((node.size[0] - 40) / CHARACTER_WIDTH));
    const width = (/** @type {string} */ line) => line.length + (line.match(WIDE)?.length ?? 0);
    const rows = lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(width(line) / perLine)), 0);
    return Math.min(MAX_HEIGHT, rows * LINE_HEIGHT + 2 * (PADDING + MARGIN));
}

/**
 * A node's box of lines by its name, if it has one.
 * @param {GraphNode} node
 * @param {string} name
 * @returns {TextWidget | undefined}
 */
export function findBox(node, name) {
    return /** @type {TextWidget | undefined} */ (node.widgets?.find((widget) => widget.name === name));
}

/**
 * A node's box of lines, made when it is first needed; undefined where the page has no such widgets.
 * @param {GraphNode} node
 * @param {string} name of the widget, in small letters with underscores
 * @returns {TextWidget | undefined}
 */
export function textBox(node, name) {
    const known = findBox(node, name);
    if (known || typeof node.addDOMWidget !== "function") return known;
    const widget = /** @type {TextWidget} */ (
        node.addDOMWidget(name, name.toUpperCase(), boxElement(name.replaceAll("_", "-")), {
            serialize: false,
            hideOnZoom: false,
            margin: MARGIN,
            getMinHeight: () => widget.linesHeight ?? LINE_HEIGHT,
            getMaxHeight: () => widget.linesHeight ?? LINE_HEIGHT,
        })
    );
    widget.serialize = false;
    return widget;
}

/**
 * Puts lines into a node's box; the node grows if they need it.
 * @param {GraphNode} node
 * @param {TextWidget} widget
 * @param {string[]} lines
 */
export function showLines(node, widget, lines) {
    widget.lines = lines;
    widget.element.replaceChildren(...lines.map(lineElement));
    widget.linesHeight = neededHeight(node, lines);
    // No higher than needed: a node that has room, as those of the templates have, must not grow over others.
    node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1])]);
    node.setDirtyCanvas?.(true, true);
}

/**
 * Moves a node's widget in front of the first other one that fits.
 * @param {GraphNode} node
 * @param {TextWidget} widget
 * @param {(name: string) => boolean} fits
 */
export function moveBefore(node, widget, fits) {
    const widgets = node.widgets ?? [];
    const place = widgets.findIndex((other) => other !== widget && fits(other.name));
    if (place < 0 || widgets.indexOf(widget) < place) return;
    widgets.splice(widgets.indexOf(widget), 1);
    widgets.splice(place, 0, widget);
}
