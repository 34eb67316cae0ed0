// What the inputs of nodes will be, as far as the graph tells before a run: widgets, and links through primitives,
// reroutes, bypassed nodes and subgraphs. Other nodes compute what they give, which only a run can tell.

import { app } from "./comfy.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./comfy_types").Graph} Graph
 * @typedef {import("./comfy_types").Link} Link
 * @typedef {{ node: GraphNode, slot: number }} Output one of a node
 */

const [MUTED, BYPASSED] = [2, 4];
const PRIMITIVES = ["PrimitiveNode", "PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveBoolean"];
/** Of the places where links enter and leave a subgraph. */
const [SUBGRAPH_INPUT, SUBGRAPH_OUTPUT] = [-10, -20];
/** More steps than any graph has between two nodes: links that lead in circles end. */
const MOST_STEPS = 100;

/** A value that is known, or the title of the node that will give it. */
/** @typedef {{ known: true, value: unknown } | { known: false, from: string }} Value */

/** @param {Graph} graph @param {number | null | undefined} id @returns {Link | undefined} */
function linkOf(graph, id) {
    if (id === null || id === undefined) return undefined;
    return graph.getLink?.(id) ?? (graph.links instanceof Map ? graph.links.get(id) : graph.links[id]);
}

/** All graphs of the open workflow: the one on top and those of its subgraphs. @returns {Graph[]} */
export function allGraphs() {
    const top = app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
    if (!top) return [];
    const found = new Set([top]);
    for (const graph of found) for (const node of graph.nodes ?? []) if (node.subgraph) found.add(node.subgraph);
    return [...found];
}

/** Nodes that stand for a subgraph. @param {Graph} graph @returns {GraphNode[]} */
const standingFor = (graph) => allGraphs().flatMap((one) => one.nodes.filter((node) => node.subgraph === graph));

/** Whether a node only hands on what it gets, whoever made it. @param {GraphNode} node */
const isReroute = (node) => /reroute/i.test(node.type) && node.inputs?.length === 1 && node.outputs?.length === 1;

/**
 * The input whose value a bypassed node hands on: of the same type, best in the same place.
 * @param {GraphNode} node
 * @param {number} slot
 */
function bypassInput(node, slot) {
    const inputs = node.inputs ?? [];
    const fits = (/** @type {number} */ place) => inputs[place] && inputs[place].type === node.outputs?.[slot]?.type;
    return fits(slot) ? slot : inputs.findIndex((_, place) => fits(place));
}

/**
 * The outputs that an input is linked to, through all that hands on: several where a subgraph stands in several places,
 * none where nothing is linked. An input of a subgraph node with a widget of its own is given as that input.
 * @param {GraphNode} node
 * @param {number} slot
 * @param {number} [steps]
 * @returns {(Output | { node: GraphNode, input: number })[]}
 */
function sourcesOf(node, slot, steps = MOST_STEPS) {
    const graph = node.graph;
    const link = graph && linkOf(graph, node.inputs?.[slot]?.link);
    if (!graph || !link || !steps) return [];
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
        return standingFor(graph).flatMap((outer) => {
            const found = sourcesOf(outer, link.origin_slot, steps - 1);
            return found.length ? found : [{ node: outer, input: link.origin_slot }];
        });
    }
    const origin = graph.getNodeById(link.origin_id);
    if (!origin || origin.mode === MUTED) return [];
    if (origin.mode === BYPASSED || isReroute(origin)) {
        const place = origin.mode === BYPASSED ? bypassInput(origin, link.origin_slot) : 0;
        return place < 0 ? [] : sourcesOf(origin, place, steps - 1);
    }
    if (!origin.subgraph) return [{ node: origin, slot: link.origin_slot }];
    return insideOf(origin.subgraph, link.origin_slot, steps - 1);
}

/** What a subgraph gives at an output. @param {Graph} inside @param {number} slot @param {number} steps */
function insideOf(inside, slot, steps) {
    const links = [...(inside.links instanceof Map ? inside.links.values() : Object.values(inside.links))];
    const last = links.find((one) => Number(one.target_id) === SUBGRAPH_OUTPUT && one.target_slot === slot);
    if (!last) return [];
    // A place to stand on: the output's own link, seen as an input of a node that is in the subgraph.
    const end = /** @type {GraphNode} */ ({ graph: inside, inputs: [{ name: "", type: "*", link: last.id }] });
    return sourcesOf(end, 0, steps);
}

/**
 * The nodes that an output goes to, with the input of each, through all that hands on.
 * @param {GraphNode} node
 * @param {number} slot
 * @param {number} [steps]
 * @returns {{ node: GraphNode, input: number }[]}
 */
export function targetsOf(node, slot, steps = MOST_STEPS) {
    const graph = node.graph;
    if (!graph || !steps) return [];
    return (node.outputs?.[slot]?.links ?? []).flatMap((id) => {
        const link = linkOf(graph, id);
        return link ? targetsAt(graph, link, steps - 1) : [];
    });
}

/** @param {Graph} graph @param {Link} link @param {number} steps @returns {{ node: GraphNode, input: number }[]} */
function targetsAt(graph, link, steps) {
    if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
        return standingFor(graph).flatMap((outer) => targetsOf(outer, link.target_slot, steps));
    }
    const target = graph.getNodeById(link.target_id);
    if (!target || target.mode === MUTED) return [];
    if (target.subgraph && steps) {
        const inside = target.subgraph;
        const links = [...(inside.links instanceof Map ? inside.links.values() : Object.values(inside.links))];
        const entered = links.filter((one) => Number(one.origin_id) === SUBGRAPH_INPUT);
        const same = entered.filter((one) => one.origin_slot === link.target_slot);
        return same.flatMap((one) => targetsAt(inside, one, steps - 1));
    }
    if (isReroute(target)) return targetsOf(target, 0, steps);
    return [{ node: target, input: link.target_slot }];
}

/** @param {GraphNode} node @param {string} name */
const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1;

/**
 * The only output that an input of a node is linked to; null where there is none or more than one.
 * @param {GraphNode} node
 * @param {string} name
 * @returns {Output | null}
 */
export function sourceOf(node, name) {
    const found = sourcesOf(node, slotOf(node, name)).filter((one) => "slot" in one);
    const outputs = /** @type {Output[]} */ (found);
    const same = outputs.every((one) => one.node === outputs[0].node && one.slot === outputs[0].slot);
    return outputs.length && same ? outputs[0] : null;
}

/**
 * The value of an input, from its widget or what is linked to it.
 * @param {GraphNode} node
 * @param {string} name
 * @param {(output: Output) => Promise<Value | null>} [computed] what is known of outputs of our own nodes
 * @returns {Promise<Value>}
 */
export async function inputValue(node, name, computed = async () => null) {
    const slot = slotOf(node, name);
    const isLinked = slot >= 0 && (node.inputs?.[slot].link ?? null) !== null;
    if (!isLinked) return { known: true, value: widgetValue(node, name) };
    const sources = sourcesOf(node, slot);
    const values = await Promise.all(sources.map((source) => sourceValue(source, computed)));
    const unknown = values.find((value) => !value.known);
    if (unknown) return unknown;
    const [first, ...others] = /** @type {{ known: true, value: unknown }[]} */ (values);
    const same = first && others.every((other) => other.value === first.value);
    return same ? first : { known: false, from: node.inputs?.[slot].name ?? name };
}

/** @param {GraphNode} node @param {string} name */
export const widgetValue = (node, name) => node.widgets?.find((widget) => widget.name === name)?.value;

/**
 * @param {Output | { node: GraphNode, input: number }} source
 * @param {(output: Output) => Promise<Value | null>} computed
 * @returns {Promise<Value>}
 */
async function sourceValue(source, computed) {
    const { node } = source;
    if ("input" in source) {
        // A subgraph's own widget, which may have another name than its input.
        const input = node.inputs?.[source.input];
        const value = widgetValue(node, input?.widget?.name ?? input?.name ?? "");
        return value === undefined ? { known: false, from: node.title } : { known: true, value };
    }
    if (PRIMITIVES.includes(node.type)) return { known: true, value: node.widgets?.[0]?.value };
    return (await computed(source)) ?? { known: false, from: node.title };
}
