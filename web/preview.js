// Keeps the video that a node shows out of the prompt.
//
// The classic renderer makes a widget for it, which the page then sends as an input `video-preview`. The node's inputs
// differ from those of the run before, so an unchanged graph would be decoded again and written to a second file.

import { app } from "./comfy.js";

const WIDGET = "video-preview";

app.registerExtension({
    name: "LiveAvatar.Preview",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("LiveAvatar_") || typeof node.addDOMWidget !== "function") return;
        const add = node.addDOMWidget;
        node.addDOMWidget = function (name, type, element, options) {
            const kept = name === WIDGET ? { ...options, serialize: false } : options;
            return add.call(this, name, type, element, kept);
        };
    },
});
