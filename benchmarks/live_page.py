"""Measures how soon a frame of a live stream is on its page after it was muxed: `python -m benchmarks.live_page`.

Writes `benchmarks/results/live_page.md`. A running ComfyUI sends made pictures at 25 frames a second, in blocks of 12,
through LiveWriter (a node of the tests); the page in Chromium tells which frame is on the screen when, and the node
subtracts when the block of that frame was given to the outputs. No model runs.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks import ROOT
from scripts.comfy_server import ComfyServer, make_base

RESULT = ROOT / "benchmarks" / "results" / "live_page.md"
ARGUMENTS = "--no-sandbox --disable-gpu --autoplay-policy=no-user-gesture-required"
FPS, BLOCK, NAME = 25, 12, "measured"
SETTLING_SECONDS = 15.0
"""Who joins comes to the edge slowly."""
PLAYED = "(s) => document.querySelector('video').currentTime > s"


def reports(seconds: float) -> list[list[float]]:
    """(second of the video, when it was seen, how long after its block was muxed) of all that the page has told."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as base:
        place = make_base(Path(base), [ROOT / "tests" / "server" / "odd_nodes"])
        with ComfyServer(comfyui, place) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
            page = browser.new_context(bypass_csp=True).new_page()
            inputs = {"name": NAME, "stop": "stop", "again": "", "fps": FPS}
            server.client.queue({"1": {"class_type": "OddBroadcast", "inputs": inputs}})
            page.goto(f"{server.url}/liveavatar/live/{NAME}")
            page.wait_for_function(PLAYED, arg=seconds + SETTLING_SECONDS, timeout=4000 * seconds + 120_000)
            (server.input / "stop").touch()
            page.wait_for_function("() => document.querySelector('.message').textContent.includes('over')")
            while not (found := server.output / "stop.json").is_file():
                page.wait_for_timeout(100)
            told: list[list[float]] = json.loads(found.read_text("utf-8"))
            browser.close()
    return [report for report in told if report[0] > told[0][0] + SETTLING_SECONDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    told = reports(options.seconds)
    whole = sorted(late for _, _, late in told)
    # A frame that is shown as soon as its block is there is as late as its place in the block.
    player = sorted(late - round(seconds * FPS) % BLOCK / FPS for seconds, _, late in told)
    lines = [
        f"| {name} | {1000 * statistics.median(values):.0f} | {1000 * values[int(0.95 * len(values))]:.0f} |"
        for name, values in (("from the end of a block's mux to the frame", whole), ("less its place in it", player))
    ]
    text = (
        "# A frame of a live stream on the page after it was muxed\n\n"
        f"`python -m benchmarks.live_page --seconds {options.seconds:g}`, {os.cpu_count()} cores, Chromium without a "
        f"GPU, {FPS} frames a second in blocks of {BLOCK}, pieces by WebSocket; load of the machine "
        f"{os.getloadavg()[0]:.1f}; {len(told)} frames. Milliseconds.\n\n| | Median | 95th percentile |\n"
        "| --- | --- | --- |\n" + "\n".join(lines) + "\n\nThe second row is what network and player add.\n"
    )
    print(text)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
