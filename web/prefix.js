// Replaces %date%, %date:yyyy-MM-dd% and %Node.widget% in our file name prefixes, as ComfyUI's page does for its own
// save nodes; %date% is ours.
//
// The page does it for nodes that it knows by name; here its function does the same for ours. Where it is missing, the
// text is sent as it stands, and the server replaces what the prompt tells (comfy_bridge/output_files.py).

import { app } from "./comfy.js";

const WIDGET = "filename_prefix";
/** What %date% stands for, also on the server. */
const DATE = "%date:yyyy-MM-dd%";

app.registerExtension({
    name: "LiveAvatar.FilenamePrefix",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("LiveAvatar_")) return;
        const widget = node.widgets?.find((one) => one.name === WIDGET);
        if (!widget) return;
        widget.serializeValue = () => {
            // @ts-ignore - the page's own functions, for packs
            const replace = window.comfyAPI?.utils?.applyTextReplacements;
            if (!replace) return widget.value;
            return replace(app.rootGraph ?? app.graph, String(widget.value).replaceAll("%date%", DATE));
        };
    },
});
