"""Measures how soon a block is on the screen after it was written: `python -m benchmarks.live_player`.

Writes `benchmarks/results/live_player.md`. Blocks of the demo model, already sampled, are written one after the other
by a running ComfyUI, with a pause after each (a node of the tests), while Chromium shows the page. A thread here notes
when the file has grown by a block, the page when the video's time is inside of it; both by the clock of the machine.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks import ROOT

sys.path.insert(0, str(ROOT / "tests" / "browser"))
from comfy_page import RENDERERS, ComfyPage  # noqa: E402
from comfy_server import ComfyServer, make_base  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "live_player.md"
DECODE, SAMPLER, SCHEDULER = "LiveAvatar_OnlineVAEDecode", "LiveAvatar_DiTSampler", "LiveAvatar_ClipScheduler"
ARGUMENTS = "--no-sandbox --disable-gpu --autoplay-policy=no-user-gesture-required"
BLOCKS, BLOCK_FRAMES, FPS = 8, 12, 16
GOAL_FIRST, GOAL_LATER = 0.3, 0.25
NOTE = """(block) => {
    const shown = window.__shown = [];
    window.__noting = setInterval(() => {
        const video = document.querySelector('.liveavatar-player video');
        if (!video || !video.videoWidth || video.currentSrc.includes('/view?')) return;
        while (shown.length < block.count && video.currentTime > shown.length * block.seconds + 0.001)
            shown.push((performance.timeOrigin + performance.now()) / 1000);
    }, 2);
}"""
QUIET_SECONDS = 0.4
"""Between two blocks nothing is written for longer than this."""


class Growth:
    """Notes when each block is in the newest file of a folder, until it is left."""

    def __init__(self, folder: Path) -> None:
        self._before = set(folder.glob("*"))
        self._folder, self._ended = folder, threading.Event()
        self.written: list[float] = []
        """Times at which the file has grown for the last time before it rested."""
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> "Growth":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        size, last = 0, 0.0
        while not self._ended.wait(0.002):
            sizes = [path.stat().st_size for path in set(self._folder.glob("*.mp4")) - self._before]
            now = time.time()
            if sizes and sizes[0] > size:
                if now - last > QUIET_SECONDS:
                    self.written.append(now)
                size, last = sizes[0], now
                self.written[-1] = now


def measured(page: ComfyPage, seed: int, pause: float) -> list[float]:
    """Seconds from a block in the file to the video's time in it, of each block but the last."""
    page.load_workflow(json.loads((ROOT / "workflows" / "short_clip.json").read_text(encoding="utf-8")))
    (scheduler,) = page.node_ids(SCHEDULER)
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    for name, value in (("num_clip", 2), ("infer_frames", 48), ("width", 64), ("height", 64), ("seed", seed)):
        page.set_widget(scheduler, name, value)
    pacer, decode = page.add_node("OddPace", -400, 0), page.node_id(DECODE)
    page.connect(page.node_id(SAMPLER), "latents", pacer, "latents")
    page.connect(pacer, "LIVEAVATAR_LATENTS", decode, "latents")
    page.set_widget(pacer, "seconds", 0.0)
    page.show_node(decode)
    run(page)
    finished = "() => document.querySelector('.liveavatar-player video').currentSrc.includes('/view?')"
    page.page.wait_for_function(finished)
    # Now nothing is sampled any more, and nothing loaded.
    page.set_widget(pacer, "seconds", pause)
    page.page.evaluate(NOTE, {"seconds": BLOCK_FRAMES / FPS, "count": BLOCKS})
    with Growth(page.server.output / "LiveAvatar") as growth:
        run(page)
    shown: list[float] = page.page.evaluate("() => { clearInterval(window.__noting); return window.__shown; }")
    assert len(shown) >= BLOCKS - 1 and len(growth.written) >= BLOCKS - 1, (shown, growth.written)
    return [seen - written for written, seen in zip(growth.written, shown, strict=False)][: BLOCKS - 1]


def run(page: ComfyPage) -> None:
    page.press_run()
    page.wait_until_done()


def row(name: str, delays: list[float]) -> str:
    first, *later = delays
    median, most = statistics.median(later), max(later)
    met = "yes" if first <= GOAL_FIRST and median <= GOAL_LATER else "no"
    return f"| {name} | {first * 1000:.0f} | {median * 1000:.0f} | {most * 1000:.0f} | {met} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pause", type=float, default=1.5, help="seconds after each block")
    options = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as base:
        place = make_base(Path(base), [ROOT / "tests" / "server" / "odd_nodes"])
        with ComfyServer(comfyui, place) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
            seed = 0
            for renderer in RENDERERS:
                for kind in ("MediaSource", "growing file"):
                    seed += 1
                    pieces = kind == "MediaSource"
                    page = ComfyPage(browser, server, renderer, Path(base), bypass_csp=pieces).open(SAMPLER)
                    page.page.evaluate(
                        "(p) => app.api.addEventListener('liveavatar.live', (e) => { e.detail.pieces = p; }, true)",
                        pieces,
                    )
                    rows.append(row(f"{renderer}, {kind}", measured(page, seed, options.pause)))
                    print(rows[-1], flush=True)
                    page.close()
            browser.close()
    heading = (
        "# A block on the screen after it was written\n\n"
        f"`python -m benchmarks.live_player`, {os.cpu_count()} cores, Chromium without a GPU, demo model at 64x64, "
        f"{options.pause:g} s after each block; load of the machine {os.getloadavg()[0]:.1f}. Milliseconds from the "
        "last byte of a block in the file to the video's time in that block. Goals: 300 for the first "
        "block, 250 for later ones (median).\n\n"
        "Before a later block the two frames are played that the encoder held back of the one before it (0.125 s).\n\n"
        "| Page | First block | Later blocks, median | Most | Met |\n| --- | --- | --- | --- | --- |\n"
    )
    RESULT.write_text(heading + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
