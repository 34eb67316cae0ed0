"""Prompts made from the workflow files, for the tests that drive the server without a browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ComfyServer
from prompt_builder import PromptBuilder

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@pytest.fixture(scope="session")
def object_info(server: ComfyServer) -> dict[str, Any]:
    """The server's description of all nodes."""
    return server.client.object_info()


@pytest.fixture(scope="session")
def short_clip(object_info: dict[str, Any]) -> Callable[..., PromptBuilder]:
    """short_clip(num_clip=1, width=64, ...): the short clip workflow with inputs of Clip Scheduler replaced."""
    workflow = json.loads((WORKFLOWS / "short_clip.json").read_text())

    def build(**inputs: Any) -> PromptBuilder:
        prompt = PromptBuilder(workflow, object_info)
        prompt.set("LiveAvatar_ClipScheduler", **inputs)
        return prompt

    return build
