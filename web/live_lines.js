// The lines that Duration Calc, Audio Encode and Clip Scheduler show while their inputs change.

import { AUDIO_ENCODE, CLIP_SCHEDULER, DURATION_CALC } from "./live_values.js";
import { clipLength, durationOf, hasUnusedVoice, heardBy, NotNow, presetOf, requestOf } from "./live_values.js";
import { voiceFor } from "./live_values.js";
import { translated } from "./messages.js";
import { estimateLines, sizeLines } from "./size_lines.js";
import * as time from "./time.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {import("./time.js").Fraction} Fraction
 * @typedef {import("./time.js").Voice} Voice
 */

/** As nodes/duration_calc.py tells it. */
const UNUSED_VOICE = "solve_for is duration, so num_clip counts and the voice does not";

/** Seconds in the user's language. @param {Texts} t @param {Fraction} seconds */
export const lengthText = (t, seconds) =>
    time.formatDuration(seconds, { h: t("hours"), min: t("minutes"), s: t("seconds") });

/** @param {GraphNode} node @param {Texts} t */
async function durationLines(node, t) {
    const { clips, inferFrames, fps, frames, seconds, voice } = await durationOf(node);
    const common = { clips, perClip: inferFrames, fps: time.formatFps(fps) };
    const lines = [
        t("formula", { ...common, length: lengthText(t, seconds), frames }),
        translated(`Hours:minutes:seconds: ${time.formatHms(seconds)}`),
        ...(await estimateLines(node, frames, time.toNumber(seconds))),
    ];
    if (voice) lines.unshift(t("voice", { length: lengthText(t, time.voiceSeconds(voice)), ...common }));
    if (await hasUnusedVoice(node)) lines.unshift(`⚠ ${translated(UNUSED_VOICE)}`);
    return lines;
}

/** @param {GraphNode} node @param {Texts} t */
async function encodeLines(node, t) {
    const { isConnected, voice } = await heardBy(node);
    if (!isConnected) return [t("noVoice")];
    if (!voice) return [t("voiceLater")];
    const { inferFrames, fps } = await clipLength(node);
    const clips = time.clipsForFrames(time.framesForSamples(voice.samples, fps, voice.sampleRate), inferFrames);
    const length = lengthText(t, time.voiceSeconds(voice));
    return [t("voice", { length, clips, perClip: inferFrames, fps: time.formatFps(fps) })];
}

/** @param {GraphNode} node @param {Texts} t */
async function schedulerLines(node, t) {
    const [request, heard] = await Promise.all([requestOf(node), voiceFor(node)]);
    const plan = time.planFor(request, heard.voice);
    const { inferFrames: perClip, fps } = request;
    const rate = time.formatFps(fps);
    if (!plan) {
        const length = lengthText(t, time.secondsOf(perClip, fps));
        const why = heard.isConnected ? "voiceLater" : heard.hasSampler ? "noVoice" : "noSampler";
        return [t("follows", { perClip, fps: rate, length }), t(why)];
    }
    const { clips, frames, cut } = plan;
    const length = lengthText(t, time.secondsOf(frames, fps));
    const blocks = (clips * perClip) / time.FRAMES_PER_BLOCK;
    const lines = [
        t(cut ? "cut" : "formula", { clips, perClip, fps: rate, length, frames }),
        t("work", { blocks, evaluations: blocks * request.steps }),
    ];
    if (heard.voice) lines.push(...voiceLines(t, request, plan, heard.voice));
    else if (heard.isConnected) lines.push(t("voiceShorter"));
    return [...lines, ...segmentLines(t, request, plan)];
}

/** What the preset takes instead of the inputs, as the server tells it. @param {GraphNode} node */
async function presetLines(node) {
    const chosen = await presetOf(node);
    if (!chosen?.changed.length) return [];
    const differences = chosen.changed.map(({ name, value, given }) => `${name} ${value} instead of ${given}`);
    return [`⚠ ${translated(`preset ${chosen.preset}: ${differences.join(", ")}`)}`];
}

/**
 * @param {Texts} t
 * @param {time.Request} request
 * @param {time.Plan} plan
 * @param {Voice} voice
 */
function voiceLines(t, { numClip, fps }, plan, voice) {
    const voiceLength = time.voiceSeconds(voice);
    const text = lengthText(t, voiceLength);
    const more = time.subtract(time.secondsOf(plan.frames, fps), voiceLength);
    const rest = lengthText(t, time.magnitude(more));
    const reduced = numClip > plan.clips ? [t("reduced", { asked: numClip, clips: plan.clips, length: text })] : [];
    const isLittle = time.compare(time.magnitude(more), time.secondsOf(1, fps)) <= 0;
    if (isLittle) return [...reduced, t("voiceOnly", { length: text })];
    if (more.n > 0n) return [...reduced, t("silence", { voice: text, rest })];
    return [t("leftOut", { voice: text, rest, needed: plan.needed ?? 0 })];
}

/** @param {Texts} t @param {time.Request} request @param {time.Plan} plan */
function segmentLines(t, { segmentClips, segmentIndex, fps }, { segments, segment }) {
    if (!segment) return [t("noSegment", { index: segmentIndex, most: segments - 1 })];
    if (!segmentClips) return [];
    const length = lengthText(t, time.secondsOf(segment.frames, fps));
    return [t("segment", { number: segmentIndex + 1, segments, ...segment, length })];
}

/** @type {Record<string, (node: GraphNode, t: Texts) => Promise<string[]>>} */
const LINES = {
    [DURATION_CALC]: durationLines,
    [AUDIO_ENCODE]: encodeLines,
    [CLIP_SCHEDULER]: schedulerLines,
};

/** Whether a node shows lines. @param {GraphNode} node */
export const isLive = (node) => (node.comfyClass ?? node.type) in LINES;

/**
 * What a function tells, or a line why nothing can be told now.
 * @param {Texts} t
 * @param {() => Promise<string[]>} lines
 */
async function told(t, lines) {
    try {
        return await lines();
    } catch (error) {
        if (!(error instanceof NotNow)) throw error;
        const { input, detail } = error;
        return [t(error.why, { input, node: detail, value: detail })];
    }
}

/** Frames that a Clip Scheduler's plan makes in this run; null where that is not known. @param {GraphNode} node */
async function madeNow(node) {
    try {
        const [request, heard] = await Promise.all([requestOf(node), voiceFor(node)]);
        return time.planFor(request, heard.voice)?.segment?.frames ?? null;
    } catch (error) {
        if (!(error instanceof NotNow)) throw error;
        return null;
    }
}

/**
 * What a node shows now.
 * @param {GraphNode} node
 * @param {Texts} t
 * @returns {Promise<string[]>}
 */
export async function linesOf(node, t) {
    const kind = node.comfyClass ?? node.type;
    const lines = await told(t, () => LINES[kind](node, t));
    if (kind !== CLIP_SCHEDULER) return lines;
    const sizes = await told(t, async () => sizeLines(node, t, await madeNow(node)));
    return [...(await presetLines(node)), ...lines, ...sizes];
}
