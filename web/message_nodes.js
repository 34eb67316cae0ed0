// The node that a message of the pack's server side is about.

import { app } from "./comfy.js";

/** @typedef {import("./comfy_types").GraphNode} GraphNode */

/**
 * The node of the prompt's id `node`, in the workflow that is open now; null when another one is, or the node is gone.
 * Nodes of a subgraph have the ids of the nodes around them in front.
 * @param {{ node: string, workflow: string }} message
 * @returns {GraphNode | null}
 */
export function nodeOfMessage({ node, workflow }) {
    const root = app.rootGraph ?? app.graph;
    if (workflow && root.id && root.id !== workflow) return null;
    const ids = node.split(":");
    const last = ids.pop() ?? "";
    let graph = root;
    for (const id of ids) {
        const inner = graph.getNodeById(id)?.subgraph;
        if (!inner) return null;
        graph = inner;
    }
    const found = graph.getNodeById(last);
    return found?.comfyClass?.startsWith("LiveAvatar_") ? found : null;
}
