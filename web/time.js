// The time arithmetic of liveavatar_runtime/duration.py and sampling/plan_request.py, as exact as there: one table of
// cases tests both (tests/runtime/time_cases.json). Where Python refuses a value, null is given here: the server tells
// why.

import { add, ceil, compare, divide, exact, floor, fraction } from "./fractions.js";
import { fractionText, limitDenominator, magnitude, multiply, subtract, toNumber } from "./fractions.js";

/** @typedef {import("./fractions.js").Fraction} Fraction */

export const FRAMES_PER_BLOCK = 12;
const [MIN_FPS, MAX_FPS] = [fraction(1), fraction(120)];
const NTSC_FAMILY = [24, 30, 48, 60, 120].map((nominal) => fraction(nominal * 1000, 1001));
const NTSC_TOLERANCE = fraction(1, 200);
const FPS_DENOMINATOR = 10_000n;
const SECONDS_DENOMINATOR = 1_000_000n;
const CLIPS_DENOMINATOR = 120_000n;
const MAX_SECONDS = fraction(1_000_000);
const HMS = /^(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d*)?|\.\d+)$/;
const HALF = fraction(1, 2);

/**
 * Frames a second: 16 -> 16, 29.97 -> 30000/1001. null when it is no number or outside 1..120.
 * @param {unknown} value
 * @returns {Fraction | null}
 */
export function parseFps(value) {
    const fps = exact(value);
    if (!fps || compare(fps, MIN_FPS) < 0 || compare(fps, MAX_FPS) > 0) return null;
    const near = NTSC_FAMILY.find((rate) => compare(magnitude(subtract(fps, rate)), NTSC_TOLERANCE) <= 0);
    return near ?? limitDenominator(fps, FPS_DENOMINATOR);
}

/**
 * A length of time. null when it is no number or negative.
 * @param {unknown} value
 * @returns {Fraction | null}
 */
export function parseSeconds(value) {
    const seconds = exact(value);
    if (!seconds || seconds.n < 0n) return null;
    const simple = limitDenominator(seconds, CLIPS_DENOMINATOR);
    return toNumber(simple) === toNumber(seconds) ? simple : limitDenominator(seconds, SECONDS_DENOMINATOR);
}

/**
 * Seconds of "1:02:30", "2:30.5" or "90". null for anything else.
 * @param {unknown} text
 * @returns {Fraction | null}
 */
export function parseHms(text) {
    const parts = HMS.exec(String(text).trim().replaceAll("：", ":"));
    if (!parts) return null;
    const [, hours, minutes, rest] = parts;
    const seconds = /** @type {Fraction} */ (exact(rest));
    if ((hours && Number(minutes) >= 60) || (minutes && compare(seconds, fraction(60)) >= 0)) return null;
    const total = add(fraction(Number(hours ?? 0) * 3600 + Number(minutes ?? 0) * 60), seconds);
    return compare(total, MAX_SECONDS) > 0 ? null : limitDenominator(total, SECONDS_DENOMINATOR);
}

/** Whether a clip can have so many frames. @param {unknown} frames @returns {frames is number} */
export function isClipLength(frames) {
    const number = Number.isSafeInteger(frames) ? Number(frames) : 0;
    return number >= FRAMES_PER_BLOCK && number % FRAMES_PER_BLOCK === 0;
}

/**
 * Seconds of so many frames.
 * @param {number} frames
 * @param {Fraction} fps
 */
export const secondsOf = (frames, fps) => divide(fraction(frames), fps);

/**
 * Fewest clips that cover `seconds`, at least 1.
 * @param {Fraction} seconds
 * @param {number} inferFrames
 * @param {Fraction} fps
 */
export function clipsForDuration(seconds, inferFrames, fps) {
    return Math.max(1, Number(ceil(divide(multiply(seconds, fps), fraction(inferFrames)))));
}

/**
 * Fewest clips that have so many frames, at least 1.
 * @param {number} frames
 * @param {number} inferFrames
 */
export const clipsForFrames = (frames, inferFrames) => Math.max(1, Math.ceil(frames / inferFrames));

/**
 * Fewest frames whose sound has all of so many samples, at least 1.
 * @param {number} samples
 * @param {Fraction} fps
 * @param {number} sampleRate
 */
export function framesForSamples(samples, fps, sampleRate) {
    const end = subtract(fraction(samples), HALF);
    return Math.max(1, Number(ceil(divide(multiply(end, fps), fraction(sampleRate)))));
}

/**
 * Hundredths of a second as hours, minutes and the rest.
 * @param {Fraction} seconds
 * @returns {{ hours: number, minutes: number, rest: string }} `rest`: seconds with two digits behind the point
 */
function split(seconds) {
    const hundredths = floor(add(multiply(seconds, fraction(100)), HALF));
    const whole = hundredths / 6000n;
    const rest = (Number(hundredths % 6000n) / 100).toFixed(2);
    return { hours: Number(whole / 60n), minutes: Number(whole % 60n), rest };
}

/** How lengths of time are written: texts that hold `{n}`. @typedef {{ h: string, min: string, s: string }} Units */

/** @type {Units} */
export const ENGLISH_UNITS = { h: "{n} h", min: "{n} min", s: "{n} s" };

/**
 * Seconds for people, to a hundredth: "7.5 s", "2 min 30 s", "2 h 46 min 40 s".
 * @param {Fraction} seconds
 * @param {Units} [units]
 */
export function formatDuration(seconds, units = ENGLISH_UNITS) {
    const { hours, minutes, rest } = split(seconds);
    const parts = hours ? [units.h.replace("{n}", `${hours}`)] : [];
    if (minutes || hours) parts.push(units.min.replace("{n}", `${minutes}`));
    parts.push(units.s.replace("{n}", rest.replace(/\.?0+$/, "")));
    return parts.join(" ");
}

/**
 * Frames a second for people, with the fraction where a few digits are not all of it: "25", "29.97 (30000/1001)".
 * @param {Fraction} fps
 */
export function formatFps(fps) {
    const text = String(Number(toNumber(fps).toPrecision(6)));
    return compare(/** @type {Fraction} */ (exact(text)), fps) ? `${text} (${fractionText(fps)})` : text;
}

/**
 * Seconds as hours:minutes:seconds, cut to milliseconds: "0:01:30", "0:00:08.008".
 * @param {Fraction} seconds
 */
export function formatHms(seconds) {
    const all = Number(floor(multiply(seconds, fraction(1000))));
    const [minutes, rest] = [Math.floor(all / 60_000), all % 60_000];
    const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
    const behind = rest % 1000 ? `.${String(rest % 1000).padStart(3, "0")}`.replace(/0+$/, "") : "";
    return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(Math.floor(rest / 1000))}${behind}`;
}

/**
 * A length of time that is only known roughly: "50 s", "12 min", "2 h 5 min".
 * @param {number} seconds
 * @param {Units} [units]
 */
export function formatEstimate(seconds, units = ENGLISH_UNITS) {
    if (seconds < 90) return units.s.replace("{n}", `${Math.max(1, Math.floor(seconds + 0.5))}`);
    const minutes = Math.floor(seconds / 60 + 0.5);
    if (minutes < 90) return units.min.replace("{n}", `${minutes}`);
    return `${units.h.replace("{n}", `${Math.floor(minutes / 60)}`)} ${units.min.replace("{n}", `${minutes % 60}`)}`;
}

/**
 * What Clip Scheduler's widgets say of the video's length.
 * @typedef {{ numClip: number, inferFrames: number, fps: Fraction, end: string, segmentClips: number,
 *     segmentIndex: number }} Request
 */

/**
 * A voice: samples and how many of them are a second.
 * @typedef {{ samples: number, sampleRate: number }} Voice
 */

/**
 * What a request becomes. `frames`: of the whole video, without the `cut` ones of the last clip; `voiceFrames`: that
 * the voice fills, null without one; `needed`: clips that the voice needs. `segment`: clips `first` to `last` (from 1)
 * and frames of what is made now, null where the video has no such segment.
 * @typedef {{ clips: number, frames: number, cut: number, voiceFrames: number | null, needed: number | null,
 *     segments: number, segment: { first: number, last: number, frames: number } | null }} Plan
 */

/**
 * The plan for a voice, or for as many clips as were asked for. null while only a voice could tell.
 * @param {Request} request
 * @param {Voice | null} voice
 * @returns {Plan | null}
 */
export function planFor(request, voice) {
    const { numClip, inferFrames, fps } = request;
    const voiceFrames = voice && framesForSamples(voice.samples, fps, voice.sampleRate);
    const needed = voiceFrames === null ? null : clipsForFrames(voiceFrames, inferFrames);
    const clips = numClip === 0 ? needed : Math.min(numClip, needed ?? numClip);
    if (clips === null) return null;
    const endsWithVoice = request.end === "voice" && clips === needed;
    const cut = voiceFrames !== null && endsWithVoice ? clips * inferFrames - voiceFrames : 0;
    const length = request.segmentClips || clips;
    const segments = Math.ceil(clips / length);
    const frames = clips * inferFrames - cut;
    return { clips, frames, cut, voiceFrames, needed, segments, segment: segmentOf(request, { clips, cut, length }) };
}

/**
 * @param {Request} request
 * @param {{ clips: number, cut: number, length: number }} made
 * @returns {Plan["segment"]}
 */
function segmentOf(request, { clips, cut, length }) {
    const start = request.segmentIndex * length;
    if (start >= clips || (request.segmentIndex && !request.segmentClips)) return null;
    const stop = Math.min(clips, start + length);
    return { first: start + 1, last: stop, frames: (stop - start) * request.inferFrames - (stop === clips ? cut : 0) };
}

/** Seconds of a voice. @param {Voice} voice */
export const voiceSeconds = (voice) => fraction(voice.samples, voice.sampleRate);

export { compare, exact, fractionText, magnitude, subtract, toNumber } from "./fractions.js";
