// What a video will take: the file's bytes, the time (liveavatar_runtime/planning/estimates.py); one table of cases tests
// both (tests/runtime/time_cases.json).

import { ENGLISH_UNITS, formatEstimate, FRAMES_PER_BLOCK } from "./time.js";

/**
 * @typedef {import("./server_answers.js").Range} Range
 * @typedef {import("./server_answers.js").FileRates} FileRates
 * @typedef {import("./time.js").Units} Units
 */

const [GIB, MIB] = [2 ** 30, 2 ** 20];
/** Ends of a range that differ by less, of the likely value, are one number. */
const CLOSE = 0.05;

/** @param {Range} range */
export const isClose = ({ low, likely, high }) => high - low < CLOSE * likely;

/** "1.5 GiB", "12 MiB". @param {number} bytes */
export const sizeText = (bytes) =>
    bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.round(bytes / MIB)} MiB`;

/** "1.5 GiB", "12.3 MiB", as texts.py has it. @param {number} bytes */
const fineText = (bytes) =>
    bytes >= Math.floor(GIB / 10) ? `${(bytes / GIB).toFixed(1)} GiB` : `${(bytes / MIB).toFixed(1)} MiB`;

/**
 * Seconds that a video of so many frames takes.
 * @param {number} frames
 * @param {Range} fps
 * @param {Range} firstBlock
 * @returns {Range}
 */
export function makingTime(frames, fps, firstBlock) {
    const others = Math.max(0, frames - FRAMES_PER_BLOCK);
    return {
        low: firstBlock.low + others / fps.high,
        likely: firstBlock.likely + others / fps.likely,
        high: firstBlock.high + others / fps.low,
    };
}

/** How estimates are written: lengths of time, and `{from}` to `{to}`. @typedef {Units & { range: string }} Words */

/** @type {Words} */
export const ENGLISH = { ...ENGLISH_UNITS, range: "{from} to {to}" };

/**
 * "12 min", "10 min to 14 min".
 * @param {Range} seconds
 * @param {Words} [words]
 */
export function estimateText(seconds, words = ENGLISH) {
    const [from, to] = [formatEstimate(seconds.low, words), formatEstimate(seconds.high, words)];
    if (from === to || isClose(seconds)) return formatEstimate(seconds.likely, words);
    return words.range.replace("{from}", from).replace("{to}", to);
}

/**
 * Of a file of so many frames, which last so long: "3.1 MiB to 14.2 MiB".
 * @param {FileRates} rates
 * @param {number} frames
 * @param {number} seconds
 */
export function fileText({ frame, second }, frames, seconds) {
    const [low, high] = [0, 1].map((end) => fineText(frames * frame[end] + seconds * second[end]));
    return `${low} to ${high}`;
}
