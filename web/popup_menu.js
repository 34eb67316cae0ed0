// A small menu beside the pointer, in the page's colours.

/** @typedef {{ text: string, name: string, act: () => void, isChosen?: boolean }} Entry */
/** @typedef {{ title: string, groups: Entry[][] }} Menu */

const EDGE = 8;

/** What closes the menu that is open. @type {(() => void) | null} */
let close = null;

/** @param {Entry} entry */
function entryElement({ text, name, act, isChosen }) {
    const made = document.createElement("button");
    Object.assign(made.style, {
        display: "block",
        width: "100%",
        padding: "4px 12px",
        border: "none",
        background: "none",
        color: "inherit",
        font: "inherit",
        textAlign: "left",
        whiteSpace: "nowrap",
        cursor: "pointer",
    });
    made.type = "button";
    made.role = "menuitem";
    made.dataset.entry = name;
    made.textContent = isChosen ? `✓ ${text}` : text;
    const light = (/** @type {boolean} */ on) => {
        made.style.background = on ? "var(--content-hover-bg, rgba(128, 128, 128, 0.25))" : "none";
    };
    for (const kind of ["pointerenter", "focus"]) made.addEventListener(kind, () => light(true));
    for (const kind of ["pointerleave", "blur"]) made.addEventListener(kind, () => light(false));
    made.addEventListener("click", () => {
        close?.();
        act();
    });
    return made;
}

function lineElement() {
    const made = document.createElement("div");
    Object.assign(made.style, { height: "1px", margin: "4px 0", background: "var(--border-color, #555)" });
    return made;
}

/**
 * Opens a menu at a place of the window; it closes at a choice, a click elsewhere, a turn of the wheel, or Escape.
 * @param {Menu} menu
 * @param {{ clientX: number, clientY: number }} place
 */
export function openMenu({ title, groups }, place) {
    close?.();
    const box = document.createElement("div");
    Object.assign(box.style, {
        position: "fixed",
        zIndex: "10000",
        padding: "4px 0",
        border: "1px solid var(--border-color, #555)",
        borderRadius: "6px",
        boxShadow: "0 4px 16px rgba(0, 0, 0, 0.4)",
        background: "var(--comfy-menu-bg, #222)",
        color: "var(--input-text, #ddd)",
        font: "12px/18px sans-serif",
    });
    box.className = "liveavatar-menu";
    box.role = "menu";
    const head = document.createElement("div");
    Object.assign(head.style, { padding: "2px 12px 4px", fontWeight: "bold" });
    head.textContent = title;
    box.append(head, ...groups.filter((group) => group.length).flatMap((group) => [lineElement(), ...group.map(entryElement)]));
    document.body.append(box);
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(EDGE, Math.min(place.clientX, innerWidth - width - EDGE))}px`;
    box.style.top = `${Math.max(EDGE, Math.min(place.clientY, innerHeight - height - EDGE))}px`;
    const outside = (/** @type {Event} */ event) => {
        if (!(event.target instanceof Node) || !box.contains(event.target)) close?.();
    };
    const keys = (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Escape") close?.();
    };
    close = () => {
        close = null;
        box.remove();
        for (const kind of ["pointerdown", "wheel"]) window.removeEventListener(kind, outside, true);
        window.removeEventListener("keydown", keys, true);
    };
    for (const kind of ["pointerdown", "wheel"]) window.addEventListener(kind, outside, true);
    window.addEventListener("keydown", keys, true);
    /** @type {HTMLElement | null} */ (box.querySelector("button"))?.focus({ preventScroll: true });
}
