"""Draws portraits and frames of their videos with the voice's waveform under them: `python -m benchmarks.strip`.

The first row is the picture, voice and prompt of the example workflow, at 25 frames a second. People, voices and
prompts are none that the demo model was trained on.
"""

import argparse
import wave
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.quality import CLIP, FPS, RATE, Demo, Scene, generate, prepared, scene
from demo.draw_portrait import PERSON
from demo.training.portraits import Pose, draw, draw_person

SCALE = 2
WAVE_HEIGHT = 64
WAVE_COLOUR, PAPER = (60, 90, 170), 255


def workflow_scene() -> Scene:
    """Picture, voice and prompt of `workflows/short_clip.json`."""
    with wave.open(str(ROOT / "demo" / "voice.wav")) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    voice = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    prompt = "A friendly person talks to the camera in front of a blue wall."
    return Scene(draw_person(PERSON), voice, prompt, "blue")


def strip(reference: np.ndarray, frames: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """The reference, then the frames in a row, uint8 RGB, their sound [S] below: each frame over its own time."""
    row = np.hstack([_enlarged(frame) for frame in frames])
    wave = np.full((WAVE_HEIGHT, row.shape[1], 3), PAPER, np.uint8)
    columns = np.array_split(sound, row.shape[1])
    half, peak = WAVE_HEIGHT // 2, max(float(np.abs(sound).max()), 1e-6)
    for x, column in enumerate(columns):
        reach = int(np.abs(column).max() / peak * (half - 2)) if len(column) else 0
        wave[half - reach : half + reach + 1, x] = WAVE_COLOUR
    picture = _enlarged(reference)
    left = np.full((row.shape[0] + WAVE_HEIGHT, picture.shape[1] + 8, 3), PAPER, np.uint8)
    left[: picture.shape[0], : picture.shape[1]] = picture
    return np.hstack([left, np.vstack([row, wave])])


def _enlarged(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "liveavatar-demo")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "strip.png")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--first", type=int, default=24, help="first frame shown")
    parser.add_argument("--frames", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo.load(arguments.bundle)
    rows = []
    for number in range(arguments.people):
        what = scene(300 + number, 2 * CLIP / float(FPS), coloured=float(number > 1)) if number else workflow_scene()
        frames = generate(demo, prepared(demo, what, clips=2))
        window = slice(arguments.first, arguments.first + arguments.frames)
        sound = what.voice[0, int(window.start / FPS * RATE) : int(window.stop / FPS * RATE)].numpy()
        rows.append(strip(draw(what.person, Pose()), frames[window], sound))
        print(f"{number}: {what.prompt}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(
        str(arguments.output), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    print(arguments.output)


if __name__ == "__main__":
    main()
