"""What the page asks before a run: `GET /liveavatar/voice` and `POST /liveavatar/sizes`, answered in JSON.

Both only read files that a run of the same names would read, and change nothing. An error is an answer too,
{"error": text}: what a user has chosen may not be there yet, which is no fault of the page.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from liveavatar_runtime.errors import InputError, MachineError

if TYPE_CHECKING:
    from aiohttp.web import Request, Response

LARGEST_QUESTION = 2**16
"""Bytes; a question is far smaller."""
Json = dict[str, Any]


def answer_page() -> None:
    """Adds the routes. Without a server (ComfyUI used as a library) nobody asks."""
    from server import PromptServer

    if getattr(PromptServer, "instance", None) is None:
        return
    routes = PromptServer.instance.routes
    routes.get("/liveavatar/voice")(voice)
    routes.post("/liveavatar/sizes")(sizes)


async def voice(request: "Request") -> "Response":
    """`?name=`: an input file. {"samples": of each channel, "sample_rate"}, as its run will load it."""
    return await _answered(_voice, {"name": request.query.get("name", "")})


async def sizes(request: "Request") -> "Response":
    """What `page_sizes.size_answer` gives for the JSON that is posted."""
    text = (await request.content.read(LARGEST_QUESTION + 1)).decode("utf-8", "replace")
    return await _answered(_sizes, {"text": text})


async def _answered(answer: Callable[[Mapping[str, str]], Json], given: Mapping[str, str]) -> "Response":
    """In a thread, since files are read."""
    from aiohttp.web import json_response

    return json_response(await asyncio.to_thread(_told, answer, given))


def _told(answer: Callable[[Mapping[str, str]], Json], given: Mapping[str, str]) -> Json:
    try:
        return answer(given)
    except (InputError, MachineError, OSError) as error:
        return {"error": str(error)}


def _voice(given: Mapping[str, str]) -> Json:
    from .input_files import voice_length

    length = voice_length(given["name"])
    return {"samples": length.samples, "sample_rate": length.sample_rate}


def _sizes(given: Mapping[str, str]) -> Json:
    from .page_sizes import size_answer

    if len(given["text"]) > LARGEST_QUESTION:
        raise InputError(f"the question is longer than {LARGEST_QUESTION} bytes")
    question = _parsed(given["text"] or "{}")
    if not isinstance(question, dict):
        raise InputError(f"the question is a {type(question).__name__}; it must be an object")
    return size_answer(question)


def _parsed(text: str) -> object:
    from liveavatar_runtime.errors import replaced
    from liveavatar_runtime.reading import parse_json

    with replaced(ValueError, lambda error: InputError(f"the question is no JSON: {error}")):
        return parse_json(text)
