// What Clip Scheduler's sizes take on this machine: beside each in its list, and for the chosen one in lines.

import { estimateText, fileText, isClose, makingTime, sizeText } from "./estimates.js";
import { inputValue, sourceOf } from "./graph_values.js";
import { samplersOf } from "./live_values.js";
import { translated } from "./messages.js";
import { decidedBy, PRESET } from "./plan_presets.js";
import { sizesFor } from "./server_answers.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./server_answers.js").SizeAnswer} SizeAnswer
 * @typedef {import("./server_answers.js").Range} Range
 * @typedef {import("./server_answers.js").SizeCost} SizeCost
 * @typedef {import("./texts.js").Texts} Texts
 */

const SIZE = "size";
const LOAD_AVATAR_MODEL = "LiveAvatar_LoadAvatarModel";
const LOAD_IMAGE = "LoadImage";
const OF_PLAN = ["width", "height", "keep_aspect", "steps", "window_blocks", SIZE, PRESET];
const OF_LENGTH = [SIZE, "steps", "infer_frames"];
const OF_CACHES = ["kv_cache", "kv_dtype", "schedule"];
const OF_MODEL = ["model", "precision", "executor", "devices", "workers"];
/** The last answer for a node, which is shown until the next one is there. @type {WeakMap<GraphNode, SizeAnswer>} */
const told = new WeakMap();
/** What is said of where a speed comes from (planning/ranges.py). @type {Record<string, string>} */
const SOURCES = { observed: "speedObserved", measured: "speedMeasured", published: "speedPublished" };
/** The same in English (comfy_bridge/duration_notes.py). @type {Record<string, string>} */
const SOURCE_TEXTS = {
    observed: "measured on this machine",
    measured: "measured on this kind of card",
    published: "from published figures",
    assumed: "estimated from the card's data sheet",
};
/** Less of a picture is lost to rounding its sides. */
const CROPPED = 0.005;

/**
 * The values of some inputs; null when one is not known.
 * @param {GraphNode} node
 * @param {string[]} names
 * @returns {Promise<Record<string, unknown> | null>}
 */
async function valuesOf(node, names) {
    const values = await Promise.all(names.map((name) => inputValue(node, name)));
    if (!values.every((value) => value.known)) return null;
    const pairs = names.map((name, place) => [name, /** @type {{ value: unknown }} */ (values[place]).value]);
    return Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
}

/**
 * What the server is asked; null while the size itself is not known.
 * @param {GraphNode} scheduler
 */
async function questionOf(scheduler) {
    const plan = await valuesOf(scheduler, OF_PLAN);
    if (!plan) return null;
    const [sampler] = samplersOf(scheduler);
    if (!sampler) return { plan };
    const loader = sourceOf(sampler, "model")?.node;
    const isLoader = loader?.type === LOAD_AVATAR_MODEL;
    // A connected MODEL replaces the file.
    const isFile = isLoader && (loader.inputs?.find((input) => input.name === "base_model")?.link ?? null) === null;
    const picture = sourceOf(sampler, "image")?.node;
    const image = picture?.type === LOAD_IMAGE ? await inputValue(picture, "image") : null;
    return {
        plan,
        caches: (await valuesOf(sampler, OF_CACHES)) ?? {},
        model: isLoader ? await valuesOf(loader, isFile ? OF_MODEL : OF_MODEL.slice(2)) : null,
        image: image?.known ? image.value : null,
    };
}

/** "1.8 to 2.6"; one number where the ends hardly differ. @param {Texts} t @param {Range} range */
function rangeText(t, range) {
    const [from, to] = [range.low.toFixed(1), range.high.toFixed(1)];
    return from === to || isClose(range) ? range.likely.toFixed(1) : t("sizeRange", { from, to });
}

/** All memory that a size takes, on devices and of caches in RAM. @param {SizeCost} cost */
const totalOf = (cost) =>
    cost.fits ? cost.memory.reduce((sum, bytes) => sum + bytes, cost.ram ?? 0) : cost.caches;

/** @param {SizeCost} cost */
const nameOf = (cost) => `${cost.width}x${cost.height}`;

/**
 * What stands beside a size in the list.
 * @param {Texts} t
 * @param {SizeCost} cost
 */
function labelOf(t, cost) {
    const memory = sizeText(totalOf(cost));
    if (!cost.suits) return t("labelUnsuited");
    if (cost.fits === false) return t("labelTooLarge", { memory });
    if (cost.fps !== null) return t("labelFps", { memory, fps: rangeText(t, cost.fps) });
    return t("labelTime", { memory, time: cost.time.toPrecision(2) });
}

/**
 * How long so many frames take, in words; null where the speed is not known.
 * @param {Texts} t
 * @param {SizeCost} cost
 * @param {number} frames
 */
function timeText(t, { fps, first_block: first }, frames) {
    const range = t("sizeRange", { from: "{from}", to: "{to}" });
    const words = { h: t("hours"), min: t("minutes"), s: t("seconds"), range };
    return fps && first && estimateText(makingTime(frames, fps, first), words);
}

/**
 * What stands beside a preset in the list: of its whole video, or of a minute where the voice decides its length.
 * @param {Texts} t
 * @param {SizeCost} cost
 * @param {string} preset
 */
function presetLabelOf(t, cost, preset) {
    const { num_clip: clips, infer_frames: perClip, fps } = decidedBy(preset) ?? {};
    const time = timeText(t, cost, Number(clips) * Number(perClip) || 60 * Number(fps));
    if (!cost.suits || cost.fits === false || time === null) return labelOf(t, cost);
    return t(clips ? "labelWhole" : "labelMinute", { memory: sizeText(totalOf(cost)), time });
}

/**
 * Puts what they take beside the options of a list; its values stay what they are.
 * @param {GraphNode} scheduler
 * @param {string} name of the widget
 * @param {Record<string, string>} labels by value
 */
function labelOptions(scheduler, name, labels) {
    const options = scheduler.widgets?.find((widget) => widget.name === name)?.options;
    if (!options) return;
    const texts = new Map(Object.entries(labels).map(([value, label]) => [value, `${value} · ${label}`]));
    if (texts.size) options.getOptionLabel = (value) => texts.get(value ?? "") ?? value ?? "";
    else delete options.getOptionLabel;
}

/** @param {Texts} t @param {SizeAnswer} answer */
const deviceName = (t, answer) => (answer.device === "cpu" ? t("processor") : answer.device);

/**
 * What the chosen size takes.
 * @param {Texts} t
 * @param {SizeAnswer} answer
 */
function selectedLine(t, answer) {
    const { selected: cost } = answer;
    const [size, device] = [nameOf(cost), deviceName(t, answer)];
    if (cost.fits === false) {
        const [memory, ram] = [sizeText(cost.memory[0]), sizeText(cost.ram ?? 0)];
        return t(cost.ram ? "sizeTooLargeRam" : "sizeTooLarge", { size, device, memory, ram });
    }
    const most = sizeText(Math.max(0, ...cost.memory));
    const parts = [];
    if (!cost.memory.length) parts.push(t("sizeCaches", { memory: sizeText(cost.caches) }));
    else if (cost.memory.length > 1) parts.push(t("sizeCards", { memory: most, count: cost.memory.length }));
    else parts.push(t("sizeCard", { memory: most, device }));
    if (cost.ram) parts.push(t("sizeRam", { memory: sizeText(cost.ram) }));
    if (cost.streams) parts.push(t("sizeStreams"));
    if (cost.fps !== null) {
        parts.push(t("sizeSpeed", { fps: rangeText(t, cost.fps), source: t(SOURCES[cost.source] ?? "speedAssumed") }));
    }
    const lost = cost.cropped ?? 0;
    if (lost >= CROPPED) parts.push(t("sizeCropped", { percent: Math.round(100 * lost) }));
    return t("sizeLine", { size, memory: parts.join(t("comma")) });
}

/**
 * The next smaller size of the list that stands or lies as the chosen one does, or the largest that fits where that one
 * does not.
 * @param {SizeAnswer} answer
 * @returns {SizeCost | undefined}
 */
function smallerOf({ selected, sizes }) {
    const pixels = (/** @type {SizeCost} */ cost) => cost.width * cost.height;
    const stands = (/** @type {SizeCost} */ cost) => Math.sign(cost.width - cost.height);
    return Object.values(sizes)
        .filter((cost) => cost.suits && stands(cost) === stands(selected) && pixels(cost) < pixels(selected))
        .filter((cost) => selected.fits !== false || cost.fits)
        .sort((one, other) => pixels(other) - pixels(one))[0];
}

/** @param {Texts} t @param {SizeAnswer} answer */
function savingLine(t, answer) {
    const [{ selected }, smaller] = [answer, smallerOf(answer)];
    if (!smaller || !selected.suits) return [];
    const saved = totalOf(selected) - totalOf(smaller);
    const percent = Math.round(100 * (1 - smaller.time / selected.time));
    const values = { size: nameOf(smaller), percent, memory: sizeText(Math.max(0, saved)) };
    return [t(selected.fits !== false && saved > 0 ? "sizeSaves" : "sizeSavesTime", values)];
}

/**
 * The answer to a node's question, or its last one while the server works on it; null where there is none.
 * @param {GraphNode} node
 * @param {object | null} question
 */
async function answerFor(node, question) {
    const found = question && (await sizesFor(question));
    const answer = found === undefined ? (told.get(node) ?? null) : found;
    if (answer) told.set(node, answer);
    return answer;
}

/**
 * @param {Record<string, SizeCost> | undefined} costs
 * @param {(cost: SizeCost, name: string) => string} label
 */
const labels = (costs, label) =>
    Object.fromEntries(Object.entries(costs ?? {}).map(([name, cost]) => [name, label(cost, name)]));

/**
 * What a video of so many frames takes with the 14B model, as Duration Calc's run tells it.
 * @param {GraphNode} node
 * @param {number} frames
 * @param {number} seconds that they last
 * @returns {Promise<string[]>}
 */
export async function estimateLines(node, frames, seconds) {
    const plan = await valuesOf(node, OF_LENGTH);
    const answer = plan && (await answerFor(node, { plan }));
    if (!answer) return [];
    const { selected: cost, device: name } = answer;
    const [size, device] = [nameOf(cost), name === "cpu" ? "the processor" : name];
    const file = `File: about ${fileText(answer.file, frames, seconds)} at ${size} (h264, crf 18)`;
    return [file, `Time on ${device}: ${timeOn(cost, Number(plan.steps), frames)}`].map(translated);
}

/** @param {SizeCost} cost @param {number} steps @param {number} frames */
function timeOn(cost, steps, frames) {
    const { fps, first_block: first } = cost;
    if (!cost.fits) return `none, as ${nameOf(cost)} does not fit there with the 14B model in bf16`;
    if (!fps || !first) return "not known, as its speed is not";
    const time = estimateText(makingTime(frames, fps, first));
    return `about ${time} with the 14B model in bf16, ${steps} steps (${SOURCE_TEXTS[cost.source]})`;
}

/**
 * The lines of a Clip Scheduler about its size; its list gets its labels.
 * @param {GraphNode} scheduler
 * @param {Texts} t
 * @param {number | null} frames that are made in this run, where they are known
 * @returns {Promise<string[]>}
 */
export async function sizeLines(scheduler, t, frames) {
    const answer = await answerFor(scheduler, await questionOf(scheduler));
    labelOptions(scheduler, SIZE, labels(answer?.sizes, (cost) => labelOf(t, cost)));
    labelOptions(scheduler, PRESET, labels(answer?.presets, (cost, preset) => presetLabelOf(t, cost, preset)));
    if (!answer) return [];
    const time = frames && timeText(t, answer.selected, frames);
    const lines = [selectedLine(t, answer), ...(time ? [t("sizeTakes", { time })] : []), ...savingLine(t, answer)];
    if (!answer.selected.suits) lines.unshift(t("sizeUnsuited", { model: answer.model }));
    if (!answer.model) lines.push(t("sizeAssumed"));
    return lines;
}
