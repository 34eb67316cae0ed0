// The player of Online VAE Decode and Live Out: the video while it is made, and then the finished file in place of
// ComfyUI's own preview.
//
// The server tells of a stream when it begins and when it ends (comfy_bridge/live_stream.py). Without this module
// ComfyUI shows the finished file.

import { api, app } from "./comfy.js";
import { nodeOfMessage } from "./message_nodes.js";
import { removeProgressText } from "./notes.js";
import { TakeStrip } from "./take_strip.js";
import { loadTexts } from "./texts.js";
import { VideoPlayer } from "./video_player.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./comfy_types").Widget} Widget
 * @typedef {import("./clip_strip.js").Clips} Clips
 * @typedef {import("./video_player.js").Stream} Stream
 * @typedef {import("./video_player.js").VideoFile} VideoFile
 * @typedef {Stream & { ended?: boolean, file?: VideoFile | null }} Message
 */

const PLAYERS = ["LiveAvatar_OnlineVAEDecode", "LiveAvatar_LiveOut"];
const EVENT = "liveavatar.live";
const WIDGET = "liveavatar_player";
const CORE_WIDGET = "video-preview";
const [PATHS, CLIPS] = ["liveavatar_paths", "liveavatar_clips"];
const MIN_HEIGHT = 200;

/** @type {WeakMap<GraphNode, VideoPlayer>} */
const players = new WeakMap();
/** Nodes 2.0 keeps the element of a widget for the next node of the same id. @type {Map<string, HTMLElement>} */
const frames = new Map();

/** @param {GraphNode} node */
function frameOf(node) {
    const key = String(node.id);
    const frame = frames.get(key) ?? document.createElement("div");
    Object.assign(frame.style, { width: "100%", height: "100%", minHeight: `${MIN_HEIGHT}px`, display: "flex" });
    frames.set(key, frame);
    return frame;
}

/**
 * A node's player, made when it is first needed; null where the page has no such widgets.
 * @param {GraphNode} node
 * @returns {Promise<VideoPlayer | null>}
 */
async function playerOf(node) {
    const texts = await loadTexts();
    const known = players.get(node);
    if (known || typeof node.addDOMWidget !== "function") return known ?? null;
    const takes = new TakeStrip(node, texts);
    const player = new VideoPlayer(texts, (file) => takes.show(file));
    // It would go on to say that the decoder is prepared.
    player.onPlaying = () => removeProgressText(node);
    takes.onPlay = (seconds) => player.playFrom(seconds);
    player.status.before(takes.element);
    players.set(node, player);
    const frame = frameOf(node);
    frame.replaceChildren(player.element);
    const widget = node.addDOMWidget(WIDGET, "LIVEAVATAR_PLAYER", frame, {
        serialize: false,
        hideOnZoom: false,
        getMinHeight: () => MIN_HEIGHT,
    });
    widget.serialize = false;
    const onRemoved = node.onRemoved;
    node.onRemoved = function (...rest) {
        player.stop();
        player.video.pause();
        takes.show(null);
        return onRemoved?.apply(this, rest);
    };
    hideCorePreview(node);
    node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1])]);
    node.setDirtyCanvas?.(true, true);
    return player;
}

/** @param {GraphNode} node */
function hideCorePreview(node) {
    node.hideOutputImages = true;
    for (const widget of node.widgets ?? []) if (widget.name === CORE_WIDGET) widget.hidden = true;
}

/** @param {Message} message */
async function onMessage(message) {
    const node = nodeOfMessage(message);
    if (!node || !PLAYERS.includes(node.comfyClass ?? "")) return;
    const player = await playerOf(node);
    // It would go on to say that the decoder is prepared.
    removeProgressText(node);
    if (!message.ended) player?.watch(message);
    else if (player?.live?.about.id === message.id) player.finish(message.file ?? null);
}

/** Streams that were begun before the page was loaded, or the workflow opened. */
async function watchRunning() {
    const client = api.clientId ?? api.initialClientId ?? sessionStorage.getItem("clientId");
    if (!client) return;
    const answer = await api.fetchApi(`/liveavatar/live?${new URLSearchParams({ client })}`);
    if (!answer.ok) return;
    for (const stream of await answer.json()) await onMessage(stream);
}

/**
 * @param {GraphNode} node
 * @param {Record<string, unknown> | undefined} output of its last run
 */
async function showFiles(node, output) {
    const images = /** @type {VideoFile[] | undefined} */ (output?.images);
    if (!images?.length) return;
    const paths = /** @type {string[] | undefined} */ (output?.[PATHS]);
    const player = await playerOf(node);
    const clips = /** @type {Clips[] | undefined} */ (output?.[CLIPS]);
    player?.show(images.map((file, number) => ({ ...file, path: paths?.[number], clips: clips?.[number] })));
}

app.registerExtension({
    name: "LiveAvatar.Player",
    setup() {
        api.addEventListener(EVENT, ({ detail }) => void onMessage(detail));
        api.addEventListener("reconnected", () => void watchRunning());
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!PLAYERS.includes(nodeData.name)) return;
        const onExecuted = nodeType.prototype.onExecuted;
        /** @type {GraphNode["onExecuted"]} */
        nodeType.prototype.onExecuted = function (output, ...rest) {
            onExecuted?.call(this, output, ...rest);
            void showFiles(this, output);
        };
    },
    nodeCreated(node) {
        if (!PLAYERS.includes(node.comfyClass ?? "") || typeof node.addDOMWidget !== "function") return;
        // Core's preview, which the classic renderer makes as a widget after the run.
        const add = node.addDOMWidget;
        node.addDOMWidget = function (name, type, element, options) {
            const widget = add.call(this, name, type, element, options);
            if (name === CORE_WIDGET && players.has(node)) widget.hidden = true;
            return widget;
        };
    },
    afterConfigureGraph() {
        void watchRunning();
    },
});
