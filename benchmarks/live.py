"""A live session in a real browser with a microphone: how late it is, how steady, and whether the mouth follows.

    python -m benchmarks.live [--minutes 30] [--voice microphone | tts]

ComfyUI runs the template live_talk with the demo model; Chromium shows its live page. microphone: Chromium's fake
device plays a speech file, over and over; tts: a program posts the same speech sentence by sentence. Measured in the
page, by its own clock: each frame that is shown (requestVideoFrameCallback) with the darkness of the mouth, and the
loudness of what the microphone gave, or when a sentence was posted. So the delay of the mouth against the voice is that
from the microphone to the picture, by neither side's own accounts. Also what the session itself accounts for, stalls,
dropped frames and processor time. Writes benchmarks/results/live.md.
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from comfy_server import ComfyServer, make_base
from live_session import LiveRun
from playwright.sync_api import Page, sync_playwright
from prompt_builder import PromptBuilder

from benchmarks import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "live.md"
RATE = 48_000
BLOCK_SECONDS = 0.48
STEP = 0.02
"""Seconds between two values that voice and mouth are compared at."""
MOST_DELAY = 4.0
PAUSE_SECONDS = 2.0

WATCH = """() => {
    const video = document.querySelector('video'), canvas = document.createElement('canvas');
    canvas.width = canvas.height = 64;
    const pen = canvas.getContext('2d', { willReadFrequently: true });
    const seen = window.seen = { frames: [], loud: [], stalls: [], begun: performance.now() };
    let waiting = null;
    const look = (now, about) => {
        pen.drawImage(video, 0, 0, 64, 64);
        const part = pen.getImageData(24, 40, 16, 12).data;
        let dark = 0;
        for (let at = 0; at < part.length; at += 4) dark += part[at + 1] + part[at + 2] < 110 ? 1 : 0;
        seen.frames.push([about.expectedDisplayTime, about.mediaTime, dark]);
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
    if (window.heardStream) {
        const context = new AudioContext(), node = context.createAnalyser();
        node.fftSize = 1024;
        context.createMediaStreamSource(window.heardStream).connect(node);
        const values = new Float32Array(node.fftSize);
        setInterval(() => {
            node.getFloatTimeDomainData(values);
            let sum = 0;
            for (const value of values) sum += value * value;
            seen.loud.push([performance.now(), Math.sqrt(sum / values.length)]);
        }, 20);
    }
}"""
KEEP_STREAM = """
const original = navigator.mediaDevices?.getUserMedia?.bind(navigator.mediaDevices);
if (original) navigator.mediaDevices.getUserMedia = async (wanted) => (window.heardStream = await original(wanted));
"""
TAKE = "() => ({ frames: window.seen.frames.splice(0), loud: window.seen.loud.splice(0) })"


@dataclass
class Seen:
    """Of the page: [shown at ms, media seconds, darkness of the mouth], [ms, loudness], and what a program posted:
    [ms of the page, seconds of speech]."""

    frames: list[list[float]] = field(default_factory=list)
    loud: list[list[float]] = field(default_factory=list)
    posted: list[tuple[float, float]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    processor: dict[str, float] = field(default_factory=dict)


def speech(folder: Path) -> tuple[Path, np.ndarray]:
    """The demo's voice with a pause, at 48 kHz: a file for Chromium, and samples int16."""
    with wave.open(str(ROOT / "demo" / "voice.wav")) as file:
        rate, values = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    places = np.arange(int(len(values) * RATE / rate)) * rate / RATE
    samples = np.interp(places, np.arange(len(values)), values.astype(np.float64))
    samples = np.concatenate([samples, np.zeros(int(PAUSE_SECONDS * RATE))]).astype("<i2")
    path = folder / "spoken.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path, samples


def measure(minutes: float, kind: str, base: Path) -> tuple[Seen, str]:
    """Everything that was seen, and the report of Live Out."""
    path, samples = speech(base)
    workflow = json.loads((ROOT / "workflows" / "live_talk.json").read_text(encoding="utf-8"))
    arguments = [
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        *(f"--use-file-for-fake-audio-capture={path}", "--autoplay-policy=no-user-gesture-required", "--no-sandbox"),
    ]
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    with ComfyServer(comfyui, make_base(base / "comfyui"), may_play_pieces=True) as server:
        prompt = PromptBuilder(workflow, server.client.object_info())
        with LiveRun(server, prompt, patience=60 * minutes + 120) as live, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM_PATH"), args=arguments)
            page = browser.new_context(permissions=["microphone"]).new_page()
            page.add_init_script(KEEP_STREAM)
            page.goto(live.page)
            page.wait_for_function("() => document.querySelector('video').currentTime > 1", timeout=60_000)
            seen = watched(page, live, (minutes, kind, samples))
            browser.close()
        result = live.end()
        report = next(out["text"][0] for out in result.outputs.values() if "text" in out)
    return seen, report


def watched(page: Page, live: LiveRun, wanted: tuple[float, str, np.ndarray]) -> Seen:
    minutes, kind, samples = wanted
    seen, begun = Seen(), time.monotonic()
    server, browser = psutil.Process(live.server.process_id), processes("chrom")
    before = used(server), sum(map(used, browser))
    if kind == "microphone":
        page.click("[data-action=speak]")
        page.wait_for_function("() => window.heardStream")
    page.evaluate(WATCH)
    speaking = threading.Thread(target=speak, args=(live, samples, minutes, seen), daemon=True)
    offset = page.evaluate("() => performance.now()") - 1000 * time.monotonic()
    if kind == "tts":
        speaking.start()
    while time.monotonic() - begun < 60 * minutes:
        page.wait_for_timeout(5000)
        taken = page.evaluate(TAKE)
        seen.frames += taken["frames"]
        seen.loud += taken["loud"]
        seen.states.append(live.state())
    seen.posted = [(1000 * at + offset, seconds) for at, seconds in seen.posted]
    wall = time.monotonic() - begun
    seen.processor = {
        "server": (used(server) - before[0]) / wall,
        "browser": (sum(map(used, browser)) - before[1]) / wall,
        "memory": server.memory_info().rss / 2**20,
    }
    return seen


def speak(live: LiveRun, samples: np.ndarray, minutes: float, seen: Seen) -> None:
    """Posts the speech, as a program does, whenever the one before is over; the pause between is of another length each
    time, so that it begins anywhere in a block."""
    ends, random = time.monotonic() + 60 * minutes - 12, np.random.default_rng(3)
    spoken = samples[: -int(PAUSE_SECONDS * RATE)]
    while time.monotonic() < ends:
        seen.posted.append((time.monotonic(), len(spoken) / RATE))
        live.ask(f"/voice?rate={RATE}", spoken.tobytes(), origin=None, token=live.token)
        time.sleep(len(spoken) / RATE + 2.0 + float(random.random()))


def processes(name: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["name"]) if name in (process.info["name"] or "")]


def used(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


def loudness(seen: Seen, samples: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Of the voice at times of the page, in ms."""
    if seen.posted:
        envelope = np.sqrt(np.convolve((samples / 32768.0) ** 2, np.ones(1024) / 1024, "same"))
        loud = np.zeros(len(times))
        for at, seconds in seen.posted:
            inside = (times >= at) & (times < at + 1000 * seconds)
            loud[inside] = envelope[((times[inside] - at) / 1000 * RATE).astype(int)]
        return loud
    at, values = np.array(seen.loud).T
    return np.interp(times, at, values)


def delays(seen: Seen, samples: np.ndarray, window: float = 12.0) -> list[float]:
    """Of the mouth behind the voice, one for each window, in seconds: where both are most alike."""
    shown, _, dark = np.array(seen.frames).T
    times = np.arange(shown[0] + 5000, shown[-1] - 5000, 1000 * STEP)
    mouth, loud = np.interp(times, shown, dark), loudness(seen, samples, times)
    size, most = int(window / STEP), int(MOST_DELAY / STEP)
    found: list[float] = []
    for first in range(0, len(times) - size - most, size):
        said = loud[first : first + size]
        if said.max() < 0.02:
            continue
        alike = [correlation(said, mouth[first + late : first + late + size]) for late in range(most)]
        if max(alike) > 0.4:
            found.append(STEP * int(np.argmax(alike)))
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0


@dataclass(frozen=True)
class Steadiness:
    """longest: seconds between two frames; long_ones: how many were longer than a block; skipped: frames of the video
    that were not shown; drift: seconds of the video against those of the page's clock."""

    longest: float
    long_ones: int
    skipped: int
    shown: int
    drift: float


def steadiness(seen: Seen) -> Steadiness:
    shown, media, _ = np.array(seen.frames).T
    gaps = np.diff(shown) / 1000
    frames = np.round(np.diff(media) * 25).astype(int)
    longest = float(gaps.max())
    drift = (media[-1] - media[0]) - (shown[-1] - shown[0]) / 1000
    return Steadiness(longest, int((gaps > BLOCK_SECONDS).sum()), int((frames - 1).clip(0).sum()), len(shown), drift)


def report(parts: dict[str, tuple[Seen, str, np.ndarray, float]]) -> str:
    lines = [
        "# Live, in a browser\n",
        f"By `python -m benchmarks.live`; demo model, 64x64, 25 frames a second, {platform.system()}, "
        f"{psutil.cpu_count()} cores, headless Chromium with sound.\n",
        (__doc__ or "").split("\n\n", 2)[2].strip(),
    ]
    for kind, (seen, told, samples, minutes) in parts.items():
        late, steady = delays(seen, samples), steadiness(seen)
        median, p95 = (float(np.quantile(late, share)) for share in (0.5, 0.95)) if late else (9.9, 9.9)
        rows = [
            ("mouth behind the voice, median", f"{median:.2f} s", "1.5 s", median <= 1.5),
            ("95th percentile", f"{p95:.2f} s, of {len(late)} stretches of 12 s", "2.5 s", p95 <= 2.5),
            ("longest time between two frames", f"{steady.longest:.2f} s", "0.48 s", steady.longest <= BLOCK_SECONDS),
            ("times longer than a block", f"{steady.long_ones}", "0", not steady.long_ones),
            ("frames that were not shown", f"{steady.skipped} of {steady.skipped + steady.shown}", "", True),
            ("video against the page's clock at the end", f"{steady.drift:+.2f} s", "", True),
            (
                "processor, ComfyUI and Chromium",
                ", ".join(f"{seen.processor[n]:.2f}" for n in ("server", "browser")),
                "",
                True,
            ),
            ("resident memory of ComfyUI", f"{seen.processor['memory']:.0f} MiB", "", True),
        ]
        lines += [
            f"\n## {kind}, {minutes:g} minutes\n",
            "| | found | allowed | met |\n| --- | --- | --- | --- |",
            *(f"| {name} | {found} | {most} | {'yes' if met else '**no**'} |" for name, found, most, met in rows),
            "\nWhat the session accounts for:\n",
            told,
        ]
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--voice", choices=("microphone", "tts"), action="append")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    parts: dict[str, tuple[Seen, str, np.ndarray, float]] = {}
    for kind in arguments.voice or ("microphone", "tts"):
        with tempfile.TemporaryDirectory() as base:
            seen, told = measure(arguments.minutes, kind, Path(base))
            parts[kind] = seen, told, speech(Path(base))[1], arguments.minutes
            arguments.output.write_text(report(parts), encoding="utf-8")
    print(report(parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
