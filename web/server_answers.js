// What the server knows of files and of this machine (comfy_bridge/page_routes.py). Without these routes nothing is
// known, and nothing is said about it.

import { api } from "./comfy.js";

/** @typedef {import("./time.js").Voice} Voice */

/** A prediction: seconds, or frames a second. @typedef {{ low: number, likely: number, high: number }} Range */

/**
 * What a size of the video takes; the fields are those of comfy_bridge/page_sizes.py.
 * @typedef {{ width: number, height: number, caches: number, memory: number[], ram: number | null, streams: boolean,
 *     fits: boolean | null, fps: Range | null, first_block: Range | null, source: string, time: number, cropped: number | null, suits: boolean }} SizeCost
 * @typedef {{ frame: [number, number], second: [number, number] }} FileRates bytes, least and most
 * @typedef {{ device: string, devices: number, rate: string, model: string, selected: SizeCost,
 *     sizes: Record<string, SizeCost>, presets?: Record<string, SizeCost>, file: FileRates }} SizeAnswer
 */

/** After this an answer that told an error is asked for again: the file may be there by now. */
const AGAIN_MS = 10_000;
/** What takes longer is shown later; the rest of a node's lines does not wait for it. */
const PATIENCE_MS = 150;
const MOST_KNOWN = 200;
/** Files can be replaced, and what is free on this machine changes. */
const FRESH_MS = 300_000;

/** @type {Map<string, { answer: Promise<any>, until: number }>} */
const known = new Map();
/** Routes that this server does not have; browsers tell of every such request in the console. */
const missing = new Set();

/**
 * @param {string} route
 * @param {string} query
 * @param {RequestInit} [options]
 * @returns {Promise<any>} null where the server has no such route, or tells an error
 */
async function ask(route, query, options) {
    if (missing.has(route)) return null;
    try {
        const response = await api.fetchApi(route + query, options);
        if (!response.ok) missing.add(route);
        const answer = response.ok ? await response.json() : null;
        return answer && !answer.error ? answer : null;
    } catch {
        return null;
    }
}

/**
 * What is known within a moment; undefined while the server still works on it, as it does with a long sound.
 * @template Answer
 * @param {Promise<Answer>} answer
 * @returns {Promise<Answer | undefined>}
 */
function soon(answer) {
    return Promise.race([answer, new Promise((done) => setTimeout(() => done(undefined), PATIENCE_MS))]);
}

/** @param {string} key @param {() => Promise<any>} asked */
function remembered(key, asked) {
    const before = known.get(key);
    if (before && before.until > Date.now()) return before.answer;
    if (known.size >= MOST_KNOWN) known.clear();
    const entry = { answer: asked(), until: Infinity };
    known.set(key, entry);
    void entry.answer.then((answer) => {
        entry.until = Date.now() + (answer ? FRESH_MS : AGAIN_MS);
    });
    return entry.answer;
}

/**
 * The length of the sound in an input file.
 * @param {string} name as Load Audio has it
 * @returns {Promise<Voice | null>}
 */
export async function voiceOf(name) {
    const query = `?name=${encodeURIComponent(name)}`;
    const answer = await soon(remembered(query, () => ask("/liveavatar/voice", query)));
    return answer ? { samples: answer.samples, sampleRate: answer.sample_rate } : null;
}

/**
 * What every size takes; undefined while the server works on it.
 * @param {object} question as comfy_bridge/page_sizes.py reads it
 * @returns {Promise<SizeAnswer | null | undefined>}
 */
export function sizesFor(question) {
    const body = JSON.stringify(question);
    const headers = { "Content-Type": "application/json" };
    return soon(remembered(body, () => ask("/liveavatar/sizes", "", { method: "POST", headers, body })));
}
