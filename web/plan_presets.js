// What the presets of Clip Scheduler decide, as the node's description has it (liveavatar_runtime/planning/
// plan_presets.py). A server without presets describes none, and none is known here.

/** @typedef {import("./comfy_types").NodeData} NodeData */

/** No preset: the widgets decide. */
export const CUSTOM = "custom";
export const PRESET = "preset";

/** Widget -> value by the preset's name; of the size, one for each shape. @type {Record<string, Record<string, unknown>>} */
let presets = {};

/** @param {NodeData} nodeData of Clip Scheduler */
export function readPresets(nodeData) {
    presets = nodeData.input?.optional?.[PRESET]?.[1]?.presets ?? {};
}

/** Place among the sizes of a preset of what lies, is square or stands. @param {number} width @param {number} height */
const shapeOf = (width, height) => (width > height ? 0 : width === height ? 1 : 2);

/**
 * The shape of the video that inputs name; lying where they do not tell.
 * @param {Record<string, unknown>} inputs size, width and height, as far as they are known
 */
function shapeFor({ size, width, height }) {
    const [, wide, high] = /^(\d+)x(\d+)$/.exec(String(size)) ?? [];
    return shapeOf(Number(wide ?? width ?? 1), Number(high ?? height ?? 0));
}

/**
 * What a preset decides; null for `custom` and for one that is not known.
 * @param {unknown} preset
 * @param {Record<string, unknown>} [inputs] size, width and height, as far as they are known
 * @returns {Record<string, unknown> | null}
 */
export function decidedBy(preset, inputs = {}) {
    if (!Object.hasOwn(presets, String(preset))) return null;
    const { size, ...others } = presets[String(preset)];
    return { ...others, size: Array.isArray(size) ? size[shapeFor(inputs)] : size };
}

/** All widgets that any preset decides. */
export const decidedWidgets = () => [...new Set(Object.values(presets).flatMap((decided) => Object.keys(decided)))];
