"""A row of the tables "kind of input -> what the user reads", and how it is tried on the real server."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy_client import PromptRefused
from comfy_server import ComfyServer
from page_translator import left_in_english
from prompt_builder import PromptBuilder

SMALL = {"num_clip": 1, "infer_frames": 12, "width": 64, "height": 64}

OF_COMFYUI = re.compile(
    r"^(Custom validation failed for node|Exception when validating( inner)? node): (\w+ - )?", re.MULTILINE
)
"""What ComfyUI puts in front of a text of ours."""

Build = Callable[[PromptBuilder], None]


@dataclass(frozen=True)
class Told:
    """One kind. `build` changes the short clip workflow; `reads` is a regular expression for what the user reads.

    A run that goes on must tell it in the first line of the notes of `node` (a class, or a node that `build`
    added), again when the node is cached.
    One that is `refused` must say it in the error on that node, and leave no file in the output folder.
    A Chinese page must show all of it in Chinese.
    """

    kind: str
    node: str
    reads: str
    build: Build = lambda prompt: None
    refused: bool = False
    plan: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind


def files(server: ComfyServer) -> set[str]:
    return {str(path) for path in server.output.rglob("*") if path.is_file()}


def check_told(case: Told, server: ComfyServer, prompt: PromptBuilder) -> None:
    """Runs the prompt and looks for the words where the user finds them."""
    case.build(prompt)
    before = files(server)
    if case.refused:
        text = refusal(server, prompt, case.node)
        assert re.search(case.reads, text), text
        english = left_in_english([OF_COMFYUI.sub("", text)])
        assert not english, english
        assert files(server) == before, "the refused run left a file"
        return
    for time in ("first", "cached"):
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        notes = result.notes(prompt.id(case.node))
        assert notes and re.search(case.reads, notes[0]), (time, notes)
    english = left_in_english(notes)
    assert not english, english


def refusal(server: ComfyServer, prompt: PromptBuilder, node: str) -> str:
    """The message on a node, whether ComfyUI refused the prompt or the node raised."""
    try:
        error = server.client.run(prompt.nodes).error
    except PromptRefused as refused:
        texts = [text for node_id, _, text in refused.errors if node_id == prompt.id(node)]
        assert texts, f"refused elsewhere: {refused}"
        return "\n".join(texts)
    assert error, "the run succeeded"
    assert error["node_id"] == prompt.id(node), error
    return error["exception_message"]
