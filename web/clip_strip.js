// A strip of pictures of a video's clips, with the number of each. Only those in view are in the page and made, so that
// a long video costs no more than a short one.

import { exact, toNumber } from "./fractions.js";
import { FrameGrabber } from "./frame_grabber.js";
import { secondsOf } from "./time.js";

/**
 * Where the clips of a video are in its file (comfy_bridge/output_files.py).
 * @typedef {{ first: number, count: number, of: number, frames: number, fps: string, skipped: number, takes: string,
 *     wrong?: Record<string, string>, transparent?: boolean }} Clips `wrong`: reasons of the clips that the judge found,
 *     by their numbers from 1; `transparent`: whether its pictures have alpha
 *
 * What is said of a clip: a text in its corner, whether the next run makes it anew, and whether it looks wrong.
 * @typedef {{ text: string, isNew: boolean, isWrong: boolean }} Mark
 *
 * @typedef {{ title: (clip: number) => string, mark: (clip: number) => Mark,
 *     choose: (clip: number, event: MouseEvent) => void }} Hooks clips counted from 0, over the whole video
 */

const [WIDTH, HEIGHT, GAP, NUMBER] = [72, 42, 4, 14];
const STEP = WIDTH + GAP;
/** Pixels of a picture for each of the strip, which may be shown larger. */
const SHARPNESS = 2;
const MOST_KEPT = 400;
const NEW_COLOUR = "#e08a1e";
const WRONG_COLOUR = "#d64545";

/** The first frame of a clip in a file. @param {Clips} clips @param {number} clip */
const firstFrame = (clips, clip) => Math.max(0, (clip + 1 - clips.first) * clips.frames - clips.skipped);

/** @param {Clips} clips */
const rateOf = (clips) => /** @type {import("./fractions.js").Fraction} */ (exact(clips.fps));

/** Where a clip begins in a file. @param {Clips} clips @param {number} clip */
export const startOf = (clips, clip) => secondsOf(firstFrame(clips, clip), rateOf(clips));

/** In the middle of a frame in the middle of a clip, in seconds. @param {Clips} clips @param {number} clip */
const middleOf = (clips, clip) =>
    toNumber(secondsOf(2 * firstFrame(clips, clip) + 2 * Math.floor(clips.frames / 2) + 1, rateOf(clips))) / 2;

/**
 * @param {string} kind
 * @param {Partial<CSSStyleDeclaration>} style
 */
function element(kind, style) {
    const made = document.createElement(kind);
    Object.assign(made.style, style);
    return made;
}

export class ClipStrip {
    /** @param {Hooks} hooks */
    constructor(hooks) {
        this.hooks = hooks;
        /** @type {Clips | null} */
        this.clips = null;
        /** @type {FrameGrabber | null} */
        this.grabber = null;
        /** Pictures by clip, the oldest first. @type {Map<number, HTMLCanvasElement>} */
        this.pictures = new Map();
        /** Clips in view. @type {Map<number, HTMLButtonElement>} */
        this.cells = new Map();
        this.inView = false;
        this.element = element("div", {
            display: "none",
            flex: "none",
            overflowX: "auto",
            overflowY: "hidden",
            outline: "none",
            scrollbarWidth: "thin",
        });
        this.element.className = "liveavatar-clips";
        // Nodes 2.0 leaves the wheel to an element that says so.
        this.element.dataset.captureWheel = "true";
        this.line = element("div", { position: "relative", height: `${HEIGHT + NUMBER}px` });
        this.element.append(this.line);
        this.element.addEventListener("scroll", () => this.draw());
        this.element.addEventListener("wheel", (event) => this.onWheel(event));
        this.element.addEventListener("pointerenter", () => this.draw());
        new ResizeObserver(() => this.draw()).observe(this.element);
        new IntersectionObserver((entries) => {
            this.inView = entries.at(-1)?.isIntersecting ?? false;
            this.draw();
        }).observe(this.element);
    }

    /** A wheel that turns up and down moves the strip too. @param {WheelEvent} event */
    onWheel(event) {
        event.preventDefault();
        this.element.scrollLeft += event.deltaX || event.deltaY;
    }

    /**
     * Shows the clips of a file, of another one from its beginning.
     * @param {string} address
     * @param {Clips} clips
     */
    show(address, clips) {
        if (this.grabber?.address === address && this.clips?.count === clips.count) {
            this.draw();
            return;
        }
        this.clear();
        this.clips = clips;
        this.grabber = new FrameGrabber(
            address,
            () => this.wanted(),
            (clip, video) => this.keep(clip, video),
        );
        this.line.style.width = `${clips.count * STEP - GAP}px`;
        this.element.style.display = "block";
        this.draw();
    }

    clear() {
        this.grabber?.close();
        this.grabber = null;
        this.clips = null;
        this.pictures.clear();
        this.cells.clear();
        this.line.replaceChildren();
        this.element.style.display = "none";
    }

    /** The first clip in view that has no picture yet. */
    wanted() {
        const { clips } = this;
        if (!clips || !this.inView) return null;
        const clip = [...this.cells.keys()].sort((a, b) => a - b).find((one) => !this.pictures.has(one));
        return clip === undefined ? null : { key: clip, seconds: middleOf(clips, clip) };
    }

    /** @param {number} clip @param {HTMLVideoElement} video */
    keep(clip, video) {
        const canvas = document.createElement("canvas");
        const scale = Math.min(WIDTH / video.videoWidth, HEIGHT / video.videoHeight) * SHARPNESS;
        canvas.width = Math.max(1, Math.round(video.videoWidth * scale));
        canvas.height = Math.max(1, Math.round(video.videoHeight * scale));
        canvas.getContext("2d")?.drawImage(video, 0, 0, canvas.width, canvas.height);
        this.pictures.set(clip, canvas);
        for (const oldest of this.pictures.keys()) {
            if (this.pictures.size <= MOST_KEPT) break;
            if (!this.cells.has(oldest)) this.pictures.delete(oldest);
        }
        this.draw();
    }

    /** Brings the clips in view up to date. */
    draw() {
        const { clips } = this;
        if (!clips) return;
        const { scrollLeft, clientWidth } = this.element;
        const from = Math.max(0, Math.floor(scrollLeft / STEP));
        const to = Math.min(clips.count, Math.ceil((scrollLeft + clientWidth) / STEP));
        const wanted = new Set(Array.from({ length: Math.max(0, to - from) }, (_, n) => clips.first - 1 + from + n));
        for (const [clip, cell] of this.cells) {
            if (wanted.has(clip)) continue;
            cell.remove();
            this.cells.delete(clip);
        }
        for (const clip of wanted) {
            const cell = this.cells.get(clip) ?? this.newCell(clip, clip + 1 - clips.first);
            this.drawCell(clip, cell);
        }
        this.grabber?.wake();
    }

    /**
     * @param {number} clip
     * @param {number} place in the strip
     */
    newCell(clip, place) {
        const cell = /** @type {HTMLButtonElement} */ (
            element("button", {
                position: "absolute",
                left: `${place * STEP}px`,
                width: `${WIDTH}px`,
                height: `${HEIGHT + NUMBER}px`,
                padding: "0",
                border: "none",
                background: "none",
                cursor: "pointer",
            })
        );
        const frame = element("span", {
            display: "flex",
            alignItems: "center",
            justifyContent: "center",
            position: "relative",
            boxSizing: "border-box",
            height: `${HEIGHT}px`,
            background: "#000",
            borderRadius: "3px",
            overflow: "hidden",
            outlineOffset: "-2px",
        });
        const mark = element("span", {
            position: "absolute",
            right: "0",
            bottom: "0",
            padding: "0 3px",
            font: "10px/13px sans-serif",
            borderRadius: "3px 0 0 0",
            background: "rgba(0, 0, 0, 0.75)",
            color: "#fff",
        });
        const number = element("span", {
            display: "block",
            font: `10px/${NUMBER}px sans-serif`,
            color: "var(--input-text, #ddd)",
            textAlign: "center",
        });
        number.textContent = String(clip + 1);
        frame.append(mark);
        cell.append(frame, number);
        cell.type = "button";
        cell.dataset.clip = String(clip + 1);
        cell.title = this.hooks.title(clip);
        cell.addEventListener("click", (event) => this.hooks.choose(clip, event));
        this.cells.set(clip, cell);
        this.line.append(cell);
        return cell;
    }

    /** @param {number} clip @param {HTMLButtonElement} cell */
    drawCell(clip, cell) {
        const [frame, number] = /** @type {HTMLElement[]} */ ([...cell.children]);
        const picture = this.pictures.get(clip);
        if (picture && picture.parentElement !== frame) {
            Object.assign(picture.style, { maxWidth: "100%", maxHeight: "100%" });
            frame.prepend(picture);
        }
        const { text, isNew, isWrong } = this.hooks.mark(clip);
        const mark = /** @type {HTMLElement} */ (frame.lastElementChild);
        mark.textContent = text;
        mark.style.display = text ? "block" : "none";
        const outline = isNew ? NEW_COLOUR : WRONG_COLOUR;
        frame.style.outline = isNew || isWrong ? `2px solid ${outline}` : "none";
        frame.style.opacity = isNew ? "0.7" : "1";
        number.style.fontWeight = isNew || isWrong ? "bold" : "normal";
        number.style.color = isWrong ? WRONG_COLOUR : "var(--input-text, #ddd)";
        cell.dataset.isNew = String(isNew);
        cell.dataset.isWrong = String(isWrong);
    }
}
