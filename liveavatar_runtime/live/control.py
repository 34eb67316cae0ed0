"""What is asked of a live video while it runs, from any thread: kept until the next block begins."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from threading import Lock
from typing import Any, Literal, get_args

from ..errors import InputError
from ..sampling.script import MAX_MOTION, MIN_MOTION
from ..sampling.script_text import MAX_SEED, Line, full_prompts, read_lines

Action = Literal["pause", "go_on", "stop", "barge_in"]
ACTIONS: tuple[Action, ...] = get_args(Action)
LONGEST_PROMPT, LONGEST_NAME = 10_000, 1_000
"""Characters."""
MOST_LINES = 1_000
"""Lines of a script that wait."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is to be new from the next block on; None: as before. picture: a file in ComfyUI's input folder."""

    prompt: str | None = None
    picture: str | None = None
    seed: int | None = None
    motion_strength: float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, part.name) is not None for part in fields(self))

    def and_then(self, later: "Wishes") -> "Wishes":
        """Both, of which the later one counts where both name something."""
        new = {part.name: getattr(later, part.name) for part in fields(later)}
        return replace(self, **{name: value for name, value in new.items() if value is not None})


@dataclass(frozen=True)
class Message:
    """What one message asks for; `script`: lines whose times count from now."""

    wishes: Wishes = Wishes()
    action: Action | None = None
    script: tuple[Line, ...] = ()


def read_message(given: object) -> Message:
    """Of parsed JSON: an object with any of `prompt`, `picture`, `seed`, `motion_strength`, `script` (the text of
    Avatar Script, without silences and numbered pictures) and `do`. Raises InputError for everything else."""
    if not isinstance(given, dict) or not given:
        raise InputError(f"the message is {str(given)[:100]!r}; it must be an object with {_allowed()}")
    message: Mapping[Any, Any] = given
    unknown = [str(name)[:100] for name in message if name not in _READERS and name not in ("do", "script")]
    if unknown:
        raise InputError(f"the message has {', '.join(unknown)[:200]!r}; allowed are {_allowed()}")
    action = message.get("do")
    if action is not None and action not in ACTIONS:
        raise InputError(f"do is {str(action)[:100]!r}; allowed are {', '.join(ACTIONS)}")
    wishes = Wishes(**{name: read(message[name]) for name, read in _READERS.items() if name in message})
    return Message(wishes, action, _script(message["script"]) if "script" in message else ())


def _allowed() -> str:
    return ", ".join([*_READERS, "script", "do"])


def _prompt(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_PROMPT:
        raise InputError(f"prompt must be a text of 1 to {LONGEST_PROMPT} characters")
    return value


def _picture(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise InputError("picture must be the name of a file in ComfyUI's input folder")
    return value


def _seed(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEED:
        raise InputError(f"seed is {str(value)[:100]}; it must be a whole number from 0 to {MAX_SEED}")
    return value


def _motion(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not MIN_MOTION <= float(value) <= MAX_MOTION:  # type: ignore[arg-type]
        raise InputError(f"motion_strength is {str(value)[:100]}; it must be {MIN_MOTION:g} to {MAX_MOTION:g}")
    return float(value)  # type: ignore[arg-type]


_READERS = {"prompt": _prompt, "picture": _picture, "seed": _seed, "motion_strength": _motion}


def _script(value: object) -> tuple[Line, ...]:
    if not isinstance(value, str) or len(value) > LONGEST_PROMPT * 10:
        raise InputError(f"script must be a text of at most {LONGEST_PROMPT * 10} characters")
    lines = read_lines(value)
    if len(lines) > MOST_LINES:
        raise InputError(f"the script has {len(lines)} lines; allowed are {MOST_LINES} at a time")
    for line in lines:
        if line.silence is not None or line.picture is not None:
            raise InputError(
                f"{line.name} has a silence or a numbered picture, which a live video has none of: it is silent where "
                "nobody speaks, and a message's picture names a file."
            )
    return lines


class Control:
    """Messages on their way to the thread that samples; a later wish replaces an earlier one, so nothing piles up."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wishes = Wishes()
        self._planned: list[tuple[Fraction, Wishes]] = []

    def ask(self, message: Message, now: Fraction) -> None:
        """now: seconds of the video; a script that comes replaces the lines that still wait."""
        planned = [
            (now + line.at, Wishes(prompt=prompt or None, seed=line.seed, motion_strength=line.motion))
            for line, prompt in zip(message.script, full_prompts(message.script), strict=True)
        ]
        with self._lock:
            self._wishes = self._wishes.and_then(message.wishes)
            if planned:
                self._planned = planned

    def is_asked(self, until: Fraction) -> bool:
        """Whether something is to be new before this second of the video."""
        with self._lock:
            return bool(self._wishes) or bool(self._planned and self._planned[0][0] < until)

    def take(self, until: Fraction) -> Wishes:
        """All that is to be new before this second of the video, which is forgotten here."""
        with self._lock:
            wishes, self._wishes = self._wishes, Wishes()
            while self._planned and self._planned[0][0] < until:
                wishes = self._planned.pop(0)[1].and_then(wishes)
            return wishes
