"""A live stream of made pictures and sound at the pace of a clock, until a test ends it."""

import importlib
import json
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np

BLOCK, RATE = 12, 48000
WIDTH, HEIGHT = 192, 256


def pictures(first: int, fps: Fraction) -> np.ndarray:
    """A bar that goes round once in two seconds, and bars for the bits of the frame's number."""
    frames = np.full((BLOCK, HEIGHT, WIDTH, 3), (24, 28, 40), np.uint8)
    for place in range(BLOCK):
        number = first + place
        x = int(number / fps * WIDTH / 2) % WIDTH
        frames[place, 40:, max(0, x - 8) : x + 8] = (91, 140, 255)
        for bit in range(12):
            frames[place, :32, 16 * bit : 16 * bit + 14] = 235 if number >> bit & 1 else 16
    return frames


class OddBroadcast:
    """Ends when the file `stop` is in the input folder; `again`: it begins anew, as after a break, when that is.

    Writes what viewers saw when into `stop`.json in the output folder, and answers it.
    """

    FUNCTION, RETURN_TYPES, OUTPUT_NODE, CATEGORY = "show", (), True, "tests"

    @classmethod
    def INPUT_TYPES(cls):
        strings = {name: ("STRING", {"default": ""}) for name in ("name", "stop", "again")}
        return {"required": {**strings, "fps": ("INT", {"default": 25})}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def show(self, name: str, stop: str, again: str, fps: int, unique_id: str) -> dict[str, Any]:
        from liveavatar_runtime.live.fragments import Fragments
        from liveavatar_runtime.live.hls import HlsWindow
        from liveavatar_runtime.live.writer import LiveWriter, WriterHooks
        from liveavatar_runtime.media.video import AudioTrack, PictureTrack

        bridge = next(key for key in sys.modules if key.endswith("comfy_bridge.live.page")).removesuffix(".page")
        viewers_module = importlib.import_module(bridge + ".viewers")
        written: dict[int, float] = {}
        shown: list[tuple[float, float, float]] = []
        lock = threading.Lock()

        def on_shown(seconds: float, at: float) -> None:
            frame = int(seconds * fps + 0.5)
            with lock:
                if frame in written and len(shown) < 100_000:
                    shown.append((seconds, at, at - written[frame]))

        def on_written(frames: int) -> None:
            with lock:
                now = time.monotonic()
                written.update(dict.fromkeys(range(frames - BLOCK, frames), now))
                for old in list(written)[: -100 * BLOCK]:
                    del written[old]

        inputs, output = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
        hidden = type("Hidden", (), {"unique_id": unique_id, "prompt": {}, "extra_pnginfo": None})
        viewers = viewers_module.open_live_stream(name, hidden, (WIDTH, HEIGHT), output / f"hls-{name}", on_shown)
        kinds = [Fragments(viewers.add), HlsWindow(viewers.hls)]
        breaks = [inputs / again] if again else []
        while not (inputs / stop).exists():
            track = PictureTrack(WIDTH, HEIGHT, Fraction(fps)), AudioTrack(RATE)
            written.clear()
            with LiveWriter(*track, kinds, WriterHooks(print, on_written)) as writer:
                begun, block = time.monotonic(), 0
                while not (inputs / stop).exists() and not (breaks and breaks[0].exists()):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    samples = np.arange(int(block * BLOCK / fps * RATE), int((block + 1) * BLOCK / fps * RATE)) + 2048
                    writer.write_audio((0.2 * np.sin(samples / RATE * 2 * np.pi * 440)).astype(np.float32)[None])
                    writer.write_frames(pictures(block * BLOCK, Fraction(fps)))
                    block += 1
                    time.sleep(max(0.0, begun + block * BLOCK / fps - time.monotonic()))
            breaks = []
        viewers.end()
        # Whoever finds it finds all of it.
        unfinished = output / f"{stop}.tmp"
        unfinished.write_text(json.dumps(shown), "utf-8")
        unfinished.replace(output / f"{stop}.json")
        return {"ui": {"seen": [len(shown)]}}


NODE_CLASS_MAPPINGS = {"OddBroadcast": OddBroadcast}
