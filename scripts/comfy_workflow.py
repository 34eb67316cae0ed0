"""Workflows in ComfyUI's user-interface form turned into the API form that POST /prompt takes.

The front end does this when Run is pressed; scripts and tests need it without a browser, so that a workflow is
written once only. `to_prompt` gives what the front end's own export gives, except that dynamic prompts
(`{a|b}` in a text) stay as they are. Subgraphs are refused.
"""

from collections.abc import Iterator
from typing import Any

Prompt = dict[str, dict[str, Any]]

MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
# Input types that the front end shows as a widget holding one value.
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "MARKDOWN", "TEXTAREA", "CURVE", "RANGE"}
WIDGET_TYPES |= {"BOUNDING_BOX", "BOUNDING_BOXES", "COLORS", "PAINTER", "CHART", "GALLERIA", "IMAGECOMPARE"}
CONTROLS = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
UPLOADS = {"image_upload", "video_upload", "animated_image_upload", "audio_upload", "mesh_upload"}


class WorkflowError(ValueError):
    """The workflow cannot be turned into a prompt."""


def _type_and_options(spec: list[Any]) -> tuple[str, dict[str, Any]]:
    """The widget type of an input of /object_info and its options; a list of choices is a COMBO."""
    options = spec[1] if len(spec) > 1 else {}
    if isinstance(spec[0], list):
        return "COMBO", {"options": spec[0], **options}
    return options.get("widgetType") or spec[0], options


def expand(name: str, spec: list[Any], rest: list[Any] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, type, options) of an input; a dynamic combo is followed by the inputs of the choice it will be given."""
    kind, options = _type_and_options(spec)
    if kind == "COMFY_AUTOGROW_V3":
        return  # Its sockets are in the node's own list of inputs.
    if kind != "COMFY_DYNAMICCOMBO_V3":
        yield name, kind, options
        return
    choices = {choice["key"]: choice["inputs"] for choice in options["options"]}
    default = options.get("default", next(iter(choices)))
    chosen = rest[0] if rest else default
    yield name, "COMBO", {"default": default}
    if chosen not in choices:
        raise WorkflowError(f"{name} has no choice {chosen!r}; it has {', '.join(choices)}.")
    for section in ("required", "optional"):
        for child, child_spec in (choices[chosen].get(section) or {}).items():
            yield from expand(f"{name}.{child}", child_spec, rest)


def _specs(info: dict[str, Any], rest: list[Any] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Inputs of a node in the front end's order. `rest` are the values not taken yet, which decide about branches."""
    for section in ("required", "optional"):
        inputs = info["input"].get(section) or {}
        for name in (info.get("input_order") or {}).get(section) or list(inputs):
            yield from expand(name, inputs[name], rest)
        options = [spec[1] for spec in inputs.values() if len(spec) > 1]
        if section == "required" and any(o.get(upload) for o in options for upload in UPLOADS):
            yield "", "UPLOAD", {}  # The upload button takes a place among the values.


def _default(kind: str, options: dict[str, Any]) -> Any:
    """What the front end puts into a widget for which the workflow has no value."""
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        return next(iter(options.get("options") or []), None)
    return {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": ""}.get(kind)


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Names and values of the widgets of a node of a workflow; `info` is the node's entry in /object_info."""
    given = node.get("widgets_values")
    by_name = given if isinstance(given, dict) else {}
    rest = [] if isinstance(given, dict) else list(given or [])
    values: dict[str, Any] = {}
    for name, kind, options in _specs(info, rest):
        if options.get("forceInput") or (kind not in WIDGET_TYPES and kind != "UPLOAD"):
            continue
        value = rest.pop(0) if rest else by_name.get(name, _default(kind, options))
        if kind == "UPLOAD":
            continue
        values[name] = value
        is_seed = kind == "INT" and name in ("seed", "noise_seed")
        if options.get("control_after_generate", is_seed) and rest and rest[0] in CONTROLS:
            rest.pop(0)
            if kind == "COMBO":
                del rest[:1]  # The filter that goes with the control of a list.
    return values


class _Graph:
    """A workflow with its links by id."""

    def __init__(self, workflow: dict[str, Any], object_info: dict[str, Any]):
        if "nodes" not in workflow:
            raise WorkflowError("This is not a workflow of ComfyUI's interface: it has no list of nodes.")
        self.object_info = object_info
        self.nodes: dict[Any, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[Any, tuple[Any, int]] = {}
        for link in workflow.get("links") or []:
            if isinstance(link, dict):
                self.links[link["id"]] = (link["origin_id"], link["origin_slot"])
            else:
                self.links[link[0]] = (link[1], link[2])
        subgraphs = {s["id"] for s in (workflow.get("definitions") or {}).get("subgraphs") or []}
        for node in self.nodes.values():
            if node["type"] in subgraphs:
                raise WorkflowError(f'Node {node["id"]} is a subgraph: unpack it first ("Unpack Subgraph").')

    def source(self, link: Any) -> tuple[str, Any] | None:
        """Where a link's value comes from: ("link", [id, slot]), ("value", v), or None when nothing comes."""
        if link is None or link not in self.links:
            return None
        origin, slot = self.links[link]
        node = self.nodes.get(origin)
        if node is None or node.get("mode") == MUTED:
            return None
        inputs = node.get("inputs") or []
        if node["type"] == "PrimitiveNode":
            return "value", node["widgets_values"][0]
        if node["type"] == "Reroute":
            return self.source(inputs[0].get("link"))
        if node.get("mode") == BYPASSED:
            wanted = node["outputs"][slot]["type"]
            same = [i for i in ([inputs[slot]] if slot < len(inputs) else []) + inputs if i["type"] in (wanted, "*")]
            return self.source(same[0].get("link")) if same else None
        return "link", [str(origin), slot]

    def is_sent(self, node: dict[str, Any]) -> bool:
        """Whether a node is part of the prompt at all."""
        virtual = node["type"] in NOTES or node["type"] in ("PrimitiveNode", "Reroute")
        return not virtual and node.get("mode") not in (MUTED, BYPASSED)

    def entry(self, node: dict[str, Any]) -> dict[str, Any]:
        """The prompt entry of one node."""
        info = self.object_info.get(node["type"])
        if info is None:
            raise WorkflowError(f"This ComfyUI has no node {node['type']} (node {node['id']}): is its pack installed?")
        inputs = {k: {"__value__": v} if isinstance(v, list) else v for k, v in widget_values(node, info).items()}
        for slot in node.get("inputs") or []:
            found = self.source(slot.get("link"))
            if found:
                inputs[slot["name"]] = found[1]
        title = node.get("title") or info.get("display_name") or node["type"]
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """The API form of a workflow; `object_info` is the answer of /object_info. Raises WorkflowError."""
    graph = _Graph(workflow, object_info)
    return {str(node["id"]): graph.entry(node) for node in graph.nodes.values() if graph.is_sent(node)}


def nodes_of(prompt: Prompt, class_type: str) -> list[str]:
    """Ids of the nodes of one class."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]


def set_input(prompt: Prompt, class_type: str, name: str, value: Any) -> None:
    """Gives an input of the only node of its class a value, also where a link was; WorkflowError if it is not one."""
    found = nodes_of(prompt, class_type)
    if len(found) != 1:
        raise WorkflowError(f"The workflow has {len(found)} nodes of class {class_type}; exactly one is needed.")
    prompt[found[0]]["inputs"][name] = value


def normalised(prompt: Prompt) -> Prompt:
    """A prompt without what only helps people (titles), to compare two of them."""
    return {
        node_id: {"class_type": node["class_type"], "inputs": dict(sorted(node["inputs"].items()))}
        for node_id, node in sorted(prompt.items())
    }
