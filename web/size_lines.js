// What Clip Scheduler's sizes take on this machine: beside each in its list, and for the chosen one in lines.

import { inputValue, sourceOf } from "./graph_values.js";
import { samplersOf } from "./live_values.js";
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
const OF_PLAN = ["width", "height", "keep_aspect", "steps", "window_blocks", SIZE, "preset"];
const OF_CACHES = ["kv_cache", "kv_dtype", "schedule"];
const OF_MODEL = ["model", "precision", "executor", "devices", "workers"];
const [GIB, MIB] = [2 ** 30, 2 ** 20];
/** The last answer for a node, which is shown until the next one is there. @type {WeakMap<GraphNode, SizeAnswer>} */
const told = new WeakMap();
/** What is said of where a speed comes from (planning/ranges.py). @type {Record<string, string>} */
const SOURCES = { observed: "speedObserved", measured: "speedMeasured", published: "speedPublished" };
/** Ends of a range that differ by less, of the likely value, are one number. */
const CLOSE = 0.05;
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

/** @param {number} bytes */
const sizeText = (bytes) => (bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.round(bytes / MIB)} MiB`);

/** "1.8 to 2.6"; one number where the ends hardly differ. @param {Texts} t @param {Range} range */
function rangeText(t, { low, likely, high }) {
    const [from, to] = [low.toFixed(1), high.toFixed(1)];
    return from === to || high - low < CLOSE * likely ? likely.toFixed(1) : t("sizeRange", { from, to });
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
 * Puts memory and cost beside each size of the list; its values stay what they are.
 * @param {GraphNode} scheduler
 * @param {Texts} t
 * @param {SizeAnswer | null} answer
 */
function labelSizes(scheduler, t, answer) {
    const options = scheduler.widgets?.find((widget) => widget.name === SIZE)?.options;
    if (!options) return;
    const sizes = answer?.sizes ?? {};
    const texts = new Map(Object.entries(sizes).map(([size, cost]) => [size, `${size} · ${labelOf(t, cost)}`]));
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
 * The lines of a Clip Scheduler about its size; its list gets its labels.
 * @param {GraphNode} scheduler
 * @param {Texts} t
 * @returns {Promise<string[]>}
 */
export async function sizeLines(scheduler, t) {
    const question = await questionOf(scheduler);
    const found = question && (await sizesFor(question));
    const answer = found === undefined ? (told.get(scheduler) ?? null) : found;
    if (answer) told.set(scheduler, answer);
    labelSizes(scheduler, t, answer);
    if (!answer) return [];
    const lines = [selectedLine(t, answer), ...savingLine(t, answer)];
    if (!answer.selected.suits) lines.unshift(t("sizeUnsuited", { model: answer.model }));
    if (!answer.model) lines.push(t("sizeAssumed"));
    return lines;
}
