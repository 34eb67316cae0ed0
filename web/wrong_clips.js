// The line below a video's clips that names those that the judge found to look wrong, with a button that makes them again.

/** @typedef {import("./texts.js").Texts} Texts */

const WRONG_COLOUR = "#d64545";

/**
 * Clips counted from 0 as people count them: "3, 7-9".
 * @param {number[]} clips
 */
export function numbersText(clips) {
    /** @type {[number, number][]} */
    const runs = [];
    for (const clip of [...clips].sort((one, other) => one - other)) {
        const last = runs.at(-1);
        if (last && clip === last[1] + 1) last[1] = clip;
        else runs.push([clip, clip]);
    }
    return runs.map(([first, last]) => (first === last ? `${first + 1}` : `${first + 1}-${last + 1}`)).join(", ");
}

/**
 * @param {Texts} texts
 * @param {() => void} again what the button does
 * @returns {{ element: HTMLElement, show: (clips: number[]) => void }}
 */
export function wrongLine(texts, again) {
    const element = document.createElement("div");
    element.className = "liveavatar-wrong";
    Object.assign(element.style, { display: "none", alignItems: "center", gap: "8px", font: "11px/18px sans-serif" });
    const said = document.createElement("span");
    said.style.color = WRONG_COLOUR;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = texts("wrongAgain");
    Object.assign(button.style, { font: "inherit", cursor: "pointer" });
    button.addEventListener("click", again);
    element.append(said, button);
    const show = (/** @type {number[]} */ clips) => {
        said.textContent = texts("wrongClips", { clips: numbersText(clips) });
        element.style.display = clips.length ? "flex" : "none";
    };
    return { element, show };
}
