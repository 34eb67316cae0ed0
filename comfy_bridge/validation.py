"""The runtime's own checks where ComfyUI asks whether inputs are valid, each told once.

ComfyUI puts what `validate_inputs` returns beside every input which that function names, and gives it no others. So
each node names one: the widget that is wrong most often, where the text then stands. Whatever concerns other widgets,
or several together, is read from the prompt itself and raised; ComfyUI shows that once, on the node.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from liveavatar_runtime.errors import InputError

from .comfy_types import Prompt, PromptNode, Request, Widgets

_REQUEST: ContextVar[Request | None] = ContextVar("liveavatar_request", default=None)
"""What was sent to ComfyUI to be run, while it is checked: "prompt" and perhaps "partial_execution_targets"."""


def watch_requests() -> None:
    """Learn of each prompt before it is checked. Without a server (ComfyUI used as a library) nothing is sent."""
    from server import PromptServer

    def remember(request: Request) -> Request:
        # The same task checks the prompt afterwards; others have a variable of their own.
        _REQUEST.set(request)
        return request

    if getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.add_on_prompt_handler(remember)


Check = tuple[Callable[..., object], object]
"""A check, which raises InputError, and the value that it gets; None stands for what is not known yet."""
LONG = 10**18
"""Beyond this Python cannot tell the length of a range."""
MAX_TEXT = 500
"""Characters of a message: what is sent to ComfyUI may be longer than anybody reads."""


def verdict(node: type[io.ComfyNode], named: Check, *others: Check) -> bool | str:
    """True, or what is wrong with the widget that `validate_inputs` of a node names. Raises InputError for the other
    ones, all numbers of the node among them.

    Whatever a check raises becomes a sentence, since nothing that a client sends may end in a raw exception.
    """
    problem = _problem(*named)
    if problem:
        return problem
    number_check = check_finite, numbers_of(node, _values(node.hidden.unique_id))
    for other in (number_check, *others):
        problem = _problem(*other)
        if problem:
            raise InputError(problem)
    return True


def _problem(check: Callable[..., object], value: object) -> str:
    """What a check says of a value, or ""."""
    if value is None:
        return ""
    try:
        check(value)
    except InputError as error:
        return _shortened(str(error))
    except Exception:  # noqa: BLE001 - whatever it is, the client sent what no widget gives
        return _shortened(f"{value!r}, a {type(value).__name__}, cannot be used here. Give what the widget takes.")
    return ""


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} ... {text[-MAX_TEXT // 2 :]}"


@dataclass(frozen=True)
class Number:
    """A number that a widget of a node, or a link to its input, gives, and the limits of that widget."""

    name: str
    value: object
    low: float
    high: float
    whole: bool = False

    def check(self) -> None:
        """Raises InputError unless it is finite and within the limits."""
        if not isinstance(self.value, (int, float)) or self.value != self.value:
            raise InputError(f"{self.name} is {self.value!r}, which is not a number. Give {self._allowed()}.")
        if self.whole and not isinstance(self.value, int):
            raise InputError(f"{self.name} is {self.value!r}, which is not a whole number. Give {self._allowed()}.")
        if not self.low <= self.value <= self.high:
            is_long = isinstance(self.value, int) and abs(self.value) >= LONG
            shown = "a number of more than 18 digits" if is_long else f"{self.value}"
            raise InputError(f"{self.name} is {shown}. Give {self._allowed()}.")

    def can_be_checked(self) -> bool:
        """Whether a check can count with it; ComfyUI tells what is so far off its limits."""
        return isinstance(self.value, (int, float)) and abs(self.value) < LONG

    def _allowed(self) -> str:
        return " to ".join(str(end) if isinstance(end, int) else f"{end:.15g}" for end in (self.low, self.high))


def numbers_of(node: type[io.ComfyNode], values: Widgets) -> list[Number]:
    """The numeric inputs of a node that have a value, with their limits."""
    inputs = (found for found in node.define_schema().inputs if isinstance(found, (io.Int.Input, io.Float.Input)))
    return [
        Number(found.id, values[found.id], found.min, found.max, isinstance(found, io.Int.Input))
        for found in inputs
        if values.get(found.id) is not None and not isinstance(values[found.id], list)
    ]


def check_finite(numbers: list[Number]) -> None:
    """Raises InputError for NaN, which is in no range and outside none, so that ComfyUI lets it pass."""
    for number in numbers:
        if isinstance(number.value, float) and math.isnan(number.value):
            number.check()


def check_number(node: type[io.ComfyNode], **values: object) -> None:
    """Raises InputError unless the values of these inputs are within their widgets' limits, also where they came over
    a link, which ComfyUI does not check."""
    for number in numbers_of(node, values):
        number.check()


def other_widgets(node: type[io.ComfyNode], **defaults: object) -> list[Any]:
    """Values of widgets that `validate_inputs` of a node does not name, in the order of `defaults`, which count where
    they are missing; None for all when one is linked, of another type or far too large, which ComfyUI tells, or the
    prompt is not known."""
    given = _values(node.hidden.unique_id)
    if not given:
        return [None] * len(defaults)
    values = {name: given.get(name, default) for name, default in defaults.items()}
    known = all(isinstance(value, type(defaults[name])) for name, value in values.items())
    fitting = all(number.can_be_checked() for number in numbers_of(node, values))
    return list(values.values()) if known and fitting else [None] * len(values)


def linked_inputs(node: type[io.ComfyNode]) -> set[str] | None:
    """Inputs of a node that have a link; None when the prompt is not known."""
    values = _values(node.hidden.unique_id)
    return {name for name, value in values.items() if isinstance(value, list)} if values else None


def _values(node_id: str) -> Widgets:
    """What the prompt has for the inputs of a node."""
    return (_prompt().get(node_id) or {}).get("inputs") or {}


def chain_before(node_id: str, name: str) -> list[PromptNode]:
    """The nodes that a node gets an input of this name from, one behind the other, each by its own input of that
    name."""
    prompt, found = _prompt(), list[PromptNode]()
    link = _values(node_id).get(name)
    # No longer than the prompt, which may be one that links a node to itself.
    while isinstance(link, list) and link and str(link[0]) in prompt and len(found) < len(prompt):
        found.append(prompt[str(link[0])])
        link = found[-1]["inputs"].get(name)
    return found


def consumers(node_id: str, output: int) -> list[str]:
    """Titles of the nodes that will surely ask for an output of a node: those on the way to what is to be run."""
    prompt = _prompt()
    wanted = _wanted(prompt)
    return [
        prompt[user].get("_meta", {}).get("title") or prompt[user]["class_type"]
        for user, name, link in _links(prompt)
        if link == (node_id, output) and user in wanted and not _is_lazy(prompt[user], name)
    ]


def _prompt() -> Prompt:
    return (_REQUEST.get() or {}).get("prompt") or {}


def _links(prompt: Prompt) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """(node, input, (node that gives it, output)) of every link."""
    for user, node in prompt.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2:
                yield user, name, (str(value[0]), value[1])


def _wanted(prompt: Prompt) -> set[str]:
    """The nodes that are to be run: output nodes, or those that were asked for, and all before them."""
    targets = (_REQUEST.get() or {}).get("partial_execution_targets")
    classes = _node_classes()
    wanted = {
        node_id
        for node_id, node in prompt.items()
        if getattr(classes.get(node["class_type"]), "OUTPUT_NODE", False) and (targets is None or node_id in targets)
    }
    before: dict[str, set[str]] = {}
    for user, _, (source, _) in _links(prompt):
        before.setdefault(user, set()).add(source)
    left = list(wanted)
    while left:
        new = before.get(left.pop(), set()) - wanted
        wanted |= new
        left += new
    return wanted


def _is_lazy(node: PromptNode, name: str) -> bool:
    """Whether a node may do without this input (a switch)."""
    from comfy_execution.graph import get_input_info

    class_def = _node_classes()[node["class_type"]]
    info = get_input_info(class_def, name, class_def.INPUT_TYPES())[2]
    return bool(info and info.get("lazy"))


def _node_classes() -> Mapping[str, Any]:
    """All nodes of this ComfyUI by their ids. Its module, which imports packs, has the name of our package."""
    return sys.modules["nodes"].NODE_CLASS_MAPPINGS
