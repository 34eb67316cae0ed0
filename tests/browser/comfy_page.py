"""ComfyUI's front end in a real Chromium, driven the way a person does."""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

ARGUMENTS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
ARGUMENTS += " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
"""Of Chromium."""
RENDERERS = {"classic": False, "nodes2": True}
"""The two ways the front end draws nodes, and the value of its setting Comfy.VueNodes.Enabled."""

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Workflow.Persist": False,
    "Comfy.Locale": "en",
}

# What the front end itself reports on a fresh server without internet, whatever packs are installed.
CORE_NOISE = re.compile(
    r"/user\.css|/api/userdata[/?]|huggingface\.co|ComfyApp graph accessed before initialization"
    r"|/templates/|api\.comfy\.org|Error loading (fuse options|core workflow templates)"
)

# Websocket messages that tests ask about, kept from the moment the page is ready.
WATCHED = ["execution_start", "executing", "progress_state", "executed", "b_preview_with_metadata", "progress_text"]
WATCHED += ["execution_success", "execution_error", "execution_interrupted"]
WATCH = """(kinds) => {
    window.__seen = [];
    for (const kind of kinds)
        window.app.api.addEventListener(kind, ({ detail }) => window.__seen.push({ kind, detail }));
}"""


class ComfyPage:
    """One browser tab with ComfyUI open in it.

    `errors` are the console errors and uncaught exceptions so far, without the front end's own noise. Node ids are
    those of the workflow file, as strings.
    """

    def __init__(
        self,
        browser: Browser,
        server: ComfyServer,
        renderer: str,
        artifacts: Path,
        locale: str = "en",
        bypass_csp: bool = False,
    ):
        self.server, self.renderer, self.artifacts = server, renderer, artifacts
        self.errors: list[str] = []
        settings = {**SETTINGS, "Comfy.VueNodes.Enabled": RENDERERS[renderer], "Comfy.Locale": locale}
        server.client.post("/api/settings", settings)
        self.context = browser.new_context(
            viewport={"width": 1600, "height": 1000}, accept_downloads=True, bypass_csp=bypass_csp
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not CORE_NOISE.search(text):
            self.errors.append(text)

    def open(self, node_type: str = "LoadImage", query: str = "") -> "ComfyPage":
        """Loads the page and waits until the canvas is there and a node type is registered."""
        self.page.goto(f"{self.server.url}/{query}")
        ready = "(type) => Boolean(window.app?.canvas && window.LiteGraph?.registered_node_types[type])"
        self.page.wait_for_function(ready, arg=node_type, timeout=120_000)
        # The first graph is loaded after the types are registered; later it would replace what a test loads.
        self.page.wait_for_function("() => window.app.extensionManager?.workflow?.activeWorkflow != null")
        self.page.evaluate(WATCH, WATCHED)
        return self

    def close(self) -> None:
        self.context.close()

    # -- Workflows

    def load_workflow(self, workflow: dict[str, Any], name: str = "test") -> None:
        """Opens a workflow in interface form in a new tab of the front end, all of it in view."""
        self.page.evaluate("([w, n]) => app.loadGraphData(w, true, true, n)", [workflow, name])
        self.page.wait_for_function("(n) => app.graph.nodes.length === n", arg=len(workflow["nodes"]))

    def clear(self) -> None:
        """An empty canvas."""
        self.page.evaluate("() => app.graph.clear()")

    def open_template(self, name: str) -> None:
        """Opens a template of the pack (the name of its file) through the template browser."""
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_text("Extensions", exact=True).first.click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.page.get_by_test_id(f"template-workflow-{name}").wait_for(state="detached")
        self.settle()

    def drop_file(self, path: Path, mime: str) -> None:
        """Drops a file on the canvas, as from a file manager."""
        script = """([name, mime, data]) => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: mime }));
            const canvas = document.querySelector('#graph-canvas');
            const box = canvas.getBoundingClientRect();
            const where = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true, ...where };
            for (const kind of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, options));
        }"""
        data = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(script, [path.name, mime, data])
        self.settle()

    def export_prompt(self) -> dict[str, Any]:
        """The API form that the front end itself makes of the open workflow."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def export_workflow(self) -> dict[str, Any]:
        """The open workflow in interface form."""
        return self.page.evaluate("() => app.graph.serialize()")

    def missing_types(self) -> list[str]:
        """Node types of the open workflow that are not installed."""
        known = "Object.keys(LiteGraph.registered_node_types)"
        return self.page.evaluate(f"() => app.graph.nodes.map(n => n.type).filter(t => !new Set({known}).has(t))")

    # -- Nodes

    def node_ids(self, node_type: str) -> list[str]:
        return self.page.evaluate("(t) => app.graph.nodes.filter(n => n.type === t).map(n => String(n.id))", node_type)

    def type_of(self, node: str) -> str:
        return self.page.evaluate("(id) => app.graph.getNodeById(id).type", int(node))

    def node_id(self, node_type: str) -> str:
        """The only node of a type."""
        (found,) = self.node_ids(node_type)
        return found

    def widgets(self, node: str) -> dict[str, Any]:
        """Names and values of a node's widgets."""
        script = (
            "(id) => Object.fromEntries((app.graph.getNodeById(id).widgets ?? []).map(w => [w.name, w.value ?? null]))"
        )
        return self.page.evaluate(script, int(node))

    def set_widget(self, node: str, name: str, value: Any) -> None:
        """Gives a widget a value and tells its listeners, as editing it does."""
        script = """([id, name, value]) => {
            const node = app.graph.getNodeById(id);
            const widget = node.widgets.find(w => w.name === name);
            if (!widget) throw new Error(`no widget ${name} on node ${id}`);
            widget.value = value;
            widget.callback?.(value, app.canvas, node);
        }"""
        self.page.evaluate(script, [int(node), name, value])

    def connect(self, source: str, output: str, target: str, target_input: str) -> None:
        """Links an output to an input by their names."""
        script = """([a, out, b, input]) => {
            const from = app.graph.getNodeById(a), to = app.graph.getNodeById(b);
            from.connect(from.findOutputSlot(out), to, to.findInputSlot(input));
        }"""
        self.page.evaluate(script, [int(source), output, int(target), target_input])

    def add_node(self, node_type: str, x: int = 0, y: int = 0) -> str:
        """Adds a node at a place of the canvas; returns its id."""
        script = """([type, x, y]) => {
            const node = LiteGraph.createNode(type);
            node.pos = [x, y];
            app.graph.add(node);
            return String(node.id);
        }"""
        return self.page.evaluate(script, [node_type, x, y])

    def show_node(self, node: str) -> None:
        """Moves the view so that a node fills it; the classic renderer draws widgets only of nodes in view."""
        script = """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.ds.fitToBounds?.(node.boundingRect ?? node.getBounding(), { zoom: 0.6 });
            app.canvas.setDirty(true, true);
        }"""
        self.page.evaluate(script, int(node))
        self.settle()

    def overlapping(self) -> list[list[str]]:
        """Titles of every two nodes of which one covers a part of the other."""
        script = """() => {
            const boxes = app.graph.nodes.map(n => [n.title, ...(n.boundingRect ?? n.getBounding())]);
            const meet = ([, x, y, w, h], [, a, b, c, d]) => x < a + c && a < x + w && y < b + d && b < y + h;
            const pairs = boxes.flatMap((one, i) => boxes.slice(i + 1).map(two => [one, two]));
            return pairs.filter(([one, two]) => meet(one, two)).map(([one, two]) => [one[0], two[0]]);
        }"""
        return self.page.evaluate(script)

    def element(self, node: str) -> Locator:
        """The HTML element of a node; only Nodes 2.0 has one."""
        return self.page.locator(f'[data-node-id="{node}"]').first

    def notes(self, node: str, name: str = "notes") -> list[str]:
        """The lines of the pack's notes, or of its "pace", on a node that are drawn now; [] while none are in view."""
        script = """([id, name]) => {
            const widget = app.graph.getNodeById(id).widgets?.find(w => w.name === `liveavatar_${name}`);
            const box = widget?.element?.getBoundingClientRect();
            return box && box.height > 8 && box.width > 8 ? [...widget.element.children].map(c => c.innerText) : [];
        }"""
        return self.page.evaluate(script, [int(node), name])

    def player(self, node: str) -> Locator:
        """The pack's own player on a node, once there is one."""
        mark = """(id) => {
            const widget = app.graph.getNodeById(id).widgets?.find(w => w.name === 'liveavatar_player');
            if (widget) widget.element.dataset.ofNode = id;
            return Boolean(widget);
        }"""
        self.page.wait_for_function(mark, arg=int(node))
        return self.page.locator(f'div[data-of-node="{node}"]')

    def video(self, node: str) -> Locator:
        """The video element that shows a node's result."""
        if self.type_of(node) == "LiveAvatar_OnlineVAEDecode":
            return self.player(node).locator("video")
        if self.renderer == "nodes2":
            return self.element(node).locator("video")
        # The classic renderer puts the elements of all nodes into one layer; the node's widget knows its own, once
        # the result has been loaded.
        mark = """(id) => {
            const widgets = app.graph.getNodeById(id).widgets ?? [];
            const videos = widgets.flatMap(w => [...(w.element?.querySelectorAll?.('video') ?? [])]);
            for (const video of videos) video.dataset.ofNode = id;
            return videos.length > 0;
        }"""
        self.page.wait_for_function(mark, arg=int(node))
        return self.page.locator(f'video[data-of-node="{node}"]')

    def play(self, video: Locator, seconds: float = 0.5, timeout: float = 60.0) -> dict[str, float]:
        """Plays a video element until it has advanced by `seconds`; returns its facts. Raises when it does not play.

        One that has come to its end, as a video does that was shown while it was made, is played again.
        """
        video.wait_for(state="attached")
        begin = "(v) => { v.muted = true; if (v.ended) v.currentTime = 0; v.play(); return v.currentTime; }"
        facts = """(v) => ({ time: v.currentTime, duration: v.duration, width: v.videoWidth, height: v.videoHeight,
            ended: v.ended })"""
        start, deadline = video.evaluate(begin), time.monotonic() + timeout
        while (now := video.evaluate(facts))["time"] < start + seconds:
            error = video.evaluate("(v) => v.error && v.error.message")
            assert not error and time.monotonic() < deadline, f"the video does not play: {now}, {error}"
            if now["ended"]:
                start = video.evaluate(begin)
            time.sleep(0.05)
        return now

    # -- Running

    def press_run(self) -> None:
        self.page.evaluate("() => { window.__seen.length = 0; }")
        self.page.get_by_test_id("queue-button").click()

    def events(self, kind: str) -> list[Any]:
        """Details of the websocket messages of one kind since Run was pressed."""
        script = """(kind) => window.__seen.filter(e => e.kind === kind).map(e => {
            const detail = e.detail;
            return detail?.blob ? { ...detail, blob: detail.blob.size } : detail ?? null;
        })"""
        return self.page.evaluate(script, kind)

    def wait_for_event(self, kind: str, node: str | None = None, timeout: float = 120.0) -> Any:
        """Waits for a websocket message since Run was pressed, of one node when given; returns its detail."""
        script = """([kind, node]) => window.__seen.some(e => e.kind === kind && (node === null || (
            [e.detail?.node, e.detail?.display_node, e.detail?.displayNodeId, e.detail?.nodeId].includes(node))))"""
        self.page.wait_for_function(script, arg=[kind, node], timeout=timeout * 1000)
        about = ("node", "display_node", "displayNodeId", "nodeId")
        return next(d for d in self.events(kind) if node is None or node in [d.get(key) for key in about])

    def wait_until_done(self, timeout: float = 300.0) -> None:
        """Waits for the end of the run; an error of a node is raised with its message."""
        script = "() => window.__seen.some(e => /^execution_(success|error|interrupted)$/.test(e.kind))"
        self.page.wait_for_function(script, timeout=timeout * 1000)
        failed = self.events("execution_error")
        assert not failed, json.dumps({k: failed[0].get(k) for k in ("node_id", "node_type", "exception_message")})

    # -- Looking

    def settle(self, seconds: float = 0.3) -> None:
        """Lets the front end draw."""
        self.page.wait_for_timeout(seconds * 1000)

    def fit_view(self) -> None:
        """Brings the whole workflow into view."""
        self.page.keyboard.press(".")
        self.settle(0.6)

    def screenshot(self, name: str) -> Path:
        """Writes a picture of the tab to tests/artifacts/<name>-<renderer>.png."""
        self.artifacts.mkdir(exist_ok=True)
        path = self.artifacts / f"{name}-{self.renderer}.png"
        self.page.screenshot(path=path)
        return path
