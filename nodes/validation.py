"""The runtime's own checks where ComfyUI asks whether inputs are valid, each told once.

ComfyUI puts what `validate_inputs` returns beside every input which that function names, and gives it no others. So
each node names one: the widget that is wrong most often, where the text then stands. Whatever concerns other widgets,
or several together, is read from the prompt itself and raised; ComfyUI shows that once, on the node.
"""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from liveavatar_runtime.errors import InputError

_REQUEST: ContextVar[Mapping[str, Any] | None] = ContextVar("liveavatar_request", default=None)
"""What was sent to ComfyUI to be run, while it is checked: "prompt" and perhaps "partial_execution_targets"."""


def watch_requests() -> None:
    """Learn of each prompt before it is checked. Without a server (ComfyUI used as a library) nothing is sent."""
    from server import PromptServer

    def remember(request: dict[str, Any]) -> dict[str, Any]:
        # The same task checks the prompt afterwards; others have a variable of their own.
        _REQUEST.set(request)
        return request

    if getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.add_on_prompt_handler(remember)


def verdict(named: tuple[Callable[[Any], Any], Any], *others: tuple[Callable[[Any], Any], Any]) -> bool | str:
    """True, or what is wrong with the widget that `validate_inputs` names. Raises InputError for the other ones.

    Each is a check and its value; those of linked inputs (None) are not known yet.
    """
    check, value = named
    if value is not None:
        try:
            check(value)
        except InputError as error:
            return str(error)
    for check, value in others:
        if value is not None:
            check(value)
    return True


def other_widgets(node_id: str, **defaults: Any) -> list[Any]:
    """Values of widgets that `validate_inputs` does not name, in the order of `defaults`, which count where they are
    missing; None for all when one is linked or of another type, which ComfyUI tells, or the prompt is not known."""
    node = _prompt().get(node_id)
    if node is None:
        return [None] * len(defaults)
    values = [node["inputs"].get(name, default) for name, default in defaults.items()]
    known = all(isinstance(value, type(default)) for value, default in zip(values, defaults.values(), strict=True))
    return values if known else [None] * len(values)


def consumers(node_id: str, output: int) -> list[str]:
    """Titles of the nodes that will surely ask for an output of a node: those on the way to what is to be run."""
    prompt = _prompt()
    wanted = _wanted(prompt)
    return [
        prompt[user].get("_meta", {}).get("title") or prompt[user]["class_type"]
        for user, name, link in _links(prompt)
        if link == (node_id, output) and user in wanted and not _is_lazy(prompt[user], name)
    ]


def _prompt() -> Mapping[str, Any]:
    return (_REQUEST.get() or {}).get("prompt") or {}


def _links(prompt: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """(node, input, (node that gives it, output)) of every link."""
    for user, node in prompt.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2:
                yield user, name, (str(value[0]), value[1])


def _wanted(prompt: Mapping[str, Any]) -> set[str]:
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


def _is_lazy(node: Mapping[str, Any], name: str) -> bool:
    """Whether a node may do without this input (a switch)."""
    from comfy_execution.graph import get_input_info

    class_def = _node_classes()[node["class_type"]]
    info = get_input_info(class_def, name, class_def.INPUT_TYPES())[2]
    return bool(info and info.get("lazy"))


def _node_classes() -> Mapping[str, Any]:
    """All nodes of this ComfyUI by their ids. Its module has the name of our package."""
    return import_module("nodes").NODE_CLASS_MAPPINGS
