"""`python scripts/draw_graph.py` draws the short clip workflow for the README, docs/images/graph.png, after a run.

It is a picture of ComfyUI's own page in a browser: COMFYUI_PATH and CHROMIUM_PATH say where both are, as for the tests.
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from comfy_server import ROOT, ComfyServer, make_base
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(ROOT / "tests" / "browser"))

from comfy_page import ComfyPage

GRAPH = ROOT / "docs" / "images" / "graph.png"
TEMPLATE, LAST = "short_clip", "LiveAvatar_OnlineVAEDecode"
LEFT_OUT = ["MarkdownNote", "PreviewImage"]
"""Node types that would make the picture wide."""
WIDTH, HEIGHT = 2400, 2080
MARGIN, COLOURS = 12, 256
FOCUS = "() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')"
REMOVE = "(types) => app.graph.nodes.filter(n => types.includes(n.type)).forEach(n => app.graph.remove(n))"
BOUNDS = """() => {
    const { scale, offset } = app.canvas.ds;
    const origin = document.querySelector('#graph-canvas').getBoundingClientRect();
    const boxes = app.graph.nodes.map(n => [...n.getBounding()]);
    const edge = (pick, f) => f(...boxes.map(pick));
    const x = v => (v + offset[0]) * scale + origin.x, y = v => (v + offset[1]) * scale + origin.y;
    return [x(edge(b => b[0], Math.min)), y(edge(b => b[1], Math.min)),
            x(edge(b => b[0] + b[2], Math.max)), y(edge(b => b[1] + b[3], Math.max))];
}"""


def taken(browser: Browser, server: ComfyServer) -> Image.Image:
    """The nodes of the template with what a run has made of them."""
    page = ComfyPage(browser, server, "nodes2", GRAPH.parent)
    page.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.open(node_type=LAST)
    page.open_template(TEMPLATE)
    page.page.evaluate(REMOVE, LEFT_OUT)
    page.press_run()
    page.wait_until_done()
    page.page.evaluate(FOCUS)
    page.settle(1)
    page.fit_view()
    page.play(page.video(page.node_id(LAST)))
    page.fit_view()
    page.settle(2)
    left, top, right, bottom = page.page.evaluate(BOUNDS)
    shot = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    page.close()
    box = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
    return shot.crop(
        (max(0, int(box[0])), max(0, int(box[1])), min(shot.width, int(box[2])), min(shot.height, int(box[3])))
    )


def main() -> None:
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with ComfyServer(comfyui, make_base(Path(folder))) as server:
            picture = taken(browser, server)
        browser.close()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(GRAPH, optimize=True)
    print(GRAPH, picture.size, f"{GRAPH.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
