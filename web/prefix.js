// Replaces %date:yyyy-MM-dd% and %Node.widget% in our file name prefixes, as ComfyUI's page does for its own save nodes.
//
// The page does it for nodes that it knows by name; here its function does the same for ours. Where it is missing, the
// text is sent as it stands, and the server replaces what the prompt tells (nodes/output_files.py).

import { app } from "../../scripts/app.js";

const WIDGET = "filename_prefix";

app.registerExtension({
    name: "LiveAvatar.FilenamePrefix",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("LiveAvatar_")) return;
        const widget = node.widgets?.find((one) => one.name === WIDGET);
        if (!widget) return;
        widget.serializeValue = () => {
            const replace = window.comfyAPI?.utils?.applyTextReplacements;
            return replace ? replace(app.rootGraph ?? app.graph, widget.value) : widget.value;
        };
    },
});
