// What the presets of Clip Scheduler decide, as the node's description has it (liveavatar_runtime/planning/
// plan_presets.py). A server without presets describes none, and none is known here.

/** @typedef {import("./comfy_types").NodeData} NodeData */

/** No preset: the widgets decide. */
export const CUSTOM = "custom";
export const PRESET = "preset";

/** Widget -> value by the preset's name. @type {Record<string, Record<string, unknown>>} */
let presets = {};

/** @param {NodeData} nodeData of Clip Scheduler */
export function readPresets(nodeData) {
    presets = nodeData.input?.optional?.[PRESET]?.[1]?.presets ?? {};
}

/**
 * What a preset decides; null for `custom` and for one that is not known.
 * @param {unknown} preset
 */
export const decidedBy = (preset) => (Object.hasOwn(presets, String(preset)) ? presets[String(preset)] : null);

/** All names. */
export const presetNames = () => Object.keys(presets);

/** All widgets that any preset decides. */
export const decidedWidgets = () => [...new Set(Object.values(presets).flatMap((decided) => Object.keys(decided)))];
