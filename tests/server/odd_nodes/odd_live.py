"""A stream of latents that stops in the middle until a test lets it go on, and several of them."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths


class Gated:
    """A `LatentStream` that gives so many blocks, and the others when the file is there."""

    def __init__(self, stream: Any, blocks: int, gate: Path) -> None:
        self._stream, self._blocks, self._gate = stream, blocks, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self):
        for number, block in enumerate(self._stream):
            while number >= self._blocks and not self._gate.exists():
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.02)
            yield block


class OddGate:
    """Latents whose blocks from `blocks` on wait for the file `gate` in the input folder."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("LIVEAVATAR_LATENTS",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latents": ("LIVEAVATAR_LATENTS",), "blocks": ("INT",), "gate": ("STRING",)}}

    def make(self, latents, blocks: int, gate: str):
        path = Path(folder_paths.get_input_directory()) / gate
        return (replace(latents, stream=Gated(latents.stream, blocks, path)),)


class Paced:
    """A `LatentStream` that rests after each block."""

    def __init__(self, stream: Any, seconds: float) -> None:
        self._stream, self._seconds = stream, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self):
        for block in self._stream:
            yield block
            time.sleep(self._seconds)


class OddPace:
    """Latents with a rest after each block, for benchmarks/live_player.py."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("LIVEAVATAR_LATENTS",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latents": ("LIVEAVATAR_LATENTS",), "seconds": ("FLOAT",)}}

    def make(self, latents, seconds: float):
        return (replace(latents, stream=Paced(latents.stream, seconds)),)


class OddTwice:
    """A list of the same latents twice, of which a decoder makes two videos."""

    FUNCTION, RETURN_TYPES, CATEGORY, OUTPUT_IS_LIST = "make", ("LIVEAVATAR_LATENTS",), "tests", (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latents": ("LIVEAVATAR_LATENTS",)}}

    def make(self, latents):
        return ([latents, latents],)


NODE_CLASS_MAPPINGS = {"OddGate": OddGate, "OddPace": OddPace, "OddTwice": OddTwice}
