// What the inputs of our nodes mean for the length of the video, before a run.

import { inputValue, sourceOf, targetsOf } from "./graph_values.js";
import { decidedBy, PRESET } from "./plan_presets.js";
import { voiceOf } from "./server_answers.js";
import * as time from "./time.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./graph_values.js").Output} Output
 * @typedef {import("./graph_values.js").Value} Value
 * @typedef {import("./time.js").Voice} Voice
 */

export const AUDIO_ENCODE = "LiveAvatar_AudioEncode";
export const CLIP_SCHEDULER = "LiveAvatar_ClipScheduler";
export const DURATION_CALC = "LiveAvatar_DurationCalc";
export const DIT_SAMPLER = "LiveAvatar_DiTSampler";
const LOAD_AUDIO = "LoadAudio";

/** An input that cannot be used: it is known with the run of a node, or it is not allowed. */
export class NotNow extends Error {
    /**
     * @param {"later" | "notAllowed"} why
     * @param {string} input
     * @param {string} detail title of the node, or the value
     */
    constructor(why, input, detail) {
        super(`${input}: ${why}`);
        this.why = why;
        this.input = input;
        this.detail = detail;
    }
}

/**
 * What outputs of our own nodes give, where the page can know it.
 * @param {Output} output
 * @returns {Promise<Value | null>}
 */
async function computed({ node, slot }) {
    if (node.type === DURATION_CALC) {
        const { clips, seconds, frames } = await durationOf(node);
        return { known: true, value: [clips, time.toNumber(seconds), frames, time.formatHms(seconds)][slot] };
    }
    if (node.type !== AUDIO_ENCODE) return null;
    const heard = await heardBy(node);
    if (!heard.voice) return null;
    if (slot === 1) return { known: true, value: time.toNumber(time.voiceSeconds(heard.voice)) };
    const { inferFrames, fps } = await clipLength(node);
    const frames = time.framesForSamples(heard.voice.samples, fps, heard.voice.sampleRate);
    return slot === 2 ? { known: true, value: time.clipsForFrames(frames, inferFrames) } : null;
}

/**
 * The value of an input. Throws NotNow where only a run can tell.
 * @param {GraphNode} node
 * @param {string} name
 */
async function value(node, name) {
    const found = await inputValue(node, name, computed);
    if (!found.known) throw new NotNow("later", name, found.from);
    return found.value;
}

/**
 * A whole number of at least `least`.
 * @param {GraphNode} node
 * @param {string} name
 * @param {number} least
 */
async function count(node, name, least) {
    const found = await value(node, name);
    if (typeof found === "number" && Number.isSafeInteger(found) && found >= least) return found;
    throw new NotNow("notAllowed", name, String(found));
}

/** @param {GraphNode} node */
export async function clipLength(node) {
    const [infer_frames, fps] = await Promise.all([value(node, "infer_frames"), value(node, "fps")]);
    return clipLengthOf({ infer_frames, fps });
}

/** @param {Record<string, unknown>} values of inputs */
function clipLengthOf({ infer_frames: inferFrames, fps: rate }) {
    const fps = time.parseFps(rate);
    if (!time.isClipLength(inferFrames)) throw new NotNow("notAllowed", "infer_frames", String(inferFrames));
    if (!fps) throw new NotNow("notAllowed", "fps", String(rate));
    return { inferFrames, fps };
}

/**
 * What Duration Calc gives.
 * @param {GraphNode} node
 */
export async function durationOf(node) {
    const { inferFrames, fps } = await clipLength(node);
    const isSolved = (await value(node, "solve_for")) === "num_clip";
    const voice = isSolved ? await connectedVoice(node) : null;
    const clips = isSolved ? await clipsFor(node, voice, inferFrames, fps) : await count(node, "num_clip", 1);
    const frames = clips * inferFrames;
    return { clips, inferFrames, fps, frames, voice, seconds: time.secondsOf(frames, fps) };
}

/**
 * Clips that cover the voice, or the length that is asked for where there is none.
 * @param {GraphNode} node
 * @param {Voice | null} voice
 * @param {number} inferFrames
 * @param {time.Fraction} fps
 */
async function clipsFor(node, voice, inferFrames, fps) {
    if (voice) return time.clipsForFrames(time.framesForSamples(voice.samples, fps, voice.sampleRate), inferFrames);
    return time.clipsForDuration(await askedLength(node), inferFrames, fps);
}

/** The length that Duration Calc is to cover. @param {GraphNode} node */
async function askedLength(node) {
    const text = String((await value(node, "duration_hms")) ?? "").trim();
    const [name, asked] = text ? ["duration_hms", text] : ["duration", await value(node, "duration")];
    const seconds = text ? time.parseHms(text) : time.parseSeconds(asked);
    if (!seconds) throw new NotNow("notAllowed", String(name), String(asked));
    return seconds;
}

/** Whether an input has a link. @param {GraphNode} node @param {string} name */
const isLinked = (node, name) => (node.inputs?.find((input) => input.name === name)?.link ?? null) !== null;

/**
 * The voice that Duration Calc gets, as sound or encoded; null without one. Throws NotNow where only a run can tell.
 * @param {GraphNode} node
 * @returns {Promise<Voice | null>}
 */
async function connectedVoice(node) {
    const name = ["audio", "avatar_audio"].find((input) => isLinked(node, input));
    if (!name) return null;
    const source = sourceOf(node, name)?.node;
    const listener = name === "audio" ? node : source?.type === AUDIO_ENCODE ? source : null;
    const voice = listener && (await heardBy(listener)).voice;
    if (!voice) throw new NotNow("later", name, source?.title ?? name);
    return voice;
}

/** Whether Duration Calc has a voice that it does not use. @param {GraphNode} node */
export async function hasUnusedVoice(node) {
    const isSolved = (await value(node, "solve_for")) === "num_clip";
    return !isSolved && ["audio", "avatar_audio"].some((input) => isLinked(node, input));
}

/**
 * What an Audio Encode node, or another with such an input, hears: whether anything is connected, and the voice where its length is known.
 * @param {GraphNode} node
 * @returns {Promise<{ isConnected: boolean, voice: Voice | null }>}
 */
export async function heardBy(node) {
    const source = sourceOf(node, "audio");
    const isConnected = isLinked(node, "audio");
    if (source?.node.type !== LOAD_AUDIO) return { isConnected, voice: null };
    const name = await inputValue(source.node, "audio");
    const voice = name.known && typeof name.value === "string" && name.value ? await voiceOf(name.value) : null;
    return { isConnected, voice };
}

/**
 * The DiT Samplers that get a plan.
 * @param {GraphNode} scheduler
 */
export function samplersOf(scheduler) {
    const found = targetsOf(scheduler, 0).map((target) => target.node);
    return [...new Set(found.filter((node) => node.type === DIT_SAMPLER))];
}

/**
 * The voice that decides a plan: that of the samplers which get it, if they have the same.
 * @param {GraphNode} scheduler
 * @returns {Promise<{ hasSampler: boolean, isConnected: boolean, voice: Voice | null }>}
 */
export async function voiceFor(scheduler) {
    const samplers = samplersOf(scheduler);
    const encoders = samplers.map((sampler) => sourceOf(sampler, "avatar_audio")?.node);
    const hasSampler = samplers.length > 0;
    const [first, ...others] = encoders;
    if (!first || first.type !== AUDIO_ENCODE || others.some((other) => other !== first)) {
        return { hasSampler, isConnected: encoders.some(Boolean), voice: null };
    }
    return { hasSampler, ...(await heardBy(first)) };
}

/**
 * What Clip Scheduler's inputs ask for, or its preset in their place.
 * @param {GraphNode} node
 * @returns {Promise<import("./time.js").Request & { steps: number }>}
 */
export async function requestOf(node) {
    const decided = decidedBy(await value(node, PRESET));
    const whole = async (/** @type {string} */ name, /** @type {number} */ least) =>
        decided && name in decided ? Number(decided[name]) : count(node, name, least);
    const { inferFrames, fps } = decided ? clipLengthOf(decided) : await clipLength(node);
    const [numClip, segmentClips, segmentIndex, steps] = await Promise.all([
        whole("num_clip", 0),
        whole("segment_clips", 0),
        whole("segment_index", 0),
        whole("steps", 1),
    ]);
    const end = String(await value(node, "end"));
    return { numClip, inferFrames, fps, end, segmentClips, segmentIndex, steps };
}

/**
 * A preset that is chosen, and the inputs that it does not take as they are, as far as they are known.
 * @param {GraphNode} node
 * @returns {Promise<{ preset: string, changed: { name: string, value: unknown, given: unknown }[] } | null>}
 */
export async function presetOf(node) {
    const preset = await inputValue(node, PRESET);
    if (!preset.known || !decidedBy(preset.value)) return null;
    const shape = ["size", "width", "height"].map(async (name) => {
        const found = await inputValue(node, name, computed);
        return [name, found.known ? found.value : undefined];
    });
    const decided = decidedBy(preset.value, Object.fromEntries(await Promise.all(shape))) ?? {};
    const changed = Object.entries(decided).map(async ([name, value]) => {
        const given = await inputValue(node, name, computed);
        return given.known && given.value !== value ? [{ name, value, given: given.value }] : [];
    });
    return { preset: String(preset.value), changed: (await Promise.all(changed)).flat() };
}
