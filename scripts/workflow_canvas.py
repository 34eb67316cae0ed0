"""Builds workflows in ComfyUI's user-interface form from a few lines each, with exactly the widgets of today's nodes.

    canvas = Canvas(object_info)
    left, right = canvas.column(40), canvas.column(430)
    picture = left.node("LoadImage", title="Picture", room=260, image="portrait.png")
    shown = right.node("PreviewImage", room=300)
    canvas.link(picture, "IMAGE", shown, "images")
    workflow = canvas.workflow("a name")

Nodes of a column stand below each other. A node is as high as its sockets and widgets, and `room` for what it shows.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_workflow import WIDGET_TYPES, expand

PACK = "live-avatar"
PACK_VERSION = "0.1.0"
CORE, CORE_VERSION = "comfy-core", "0.17.0"
NAMESPACE = uuid.UUID("8f0c3c58-6c4e-4f5e-9d0b-2f1f3b0c5a11")
OPTIONAL_SHAPE = 7
INPUTS, OUTPUTS = -10, -20
"""Ids of a subgraph's own inputs and outputs among its links."""
SUBGRAPH_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
TOP, WIDTH, GAP = 60, 340, 70
SOCKET, WIDGET, FRAME = 20, 24, 40
"""Heights in pixels of a socket and of a widget as both renderers draw them, and of what is around them."""
Pair = tuple[float, float]

# Widgets that the front end makes itself for these inputs: (name, type, what is saved).
UPLOAD_WIDGETS = {
    "LoadImage": [("upload", "IMAGEUPLOAD", "image")],
    "LoadAudio": [("audioUI", "AUDIO_UI", None), ("upload", "AUDIOUPLOAD", None)],
}


@dataclass(frozen=True)
class Model:
    """A file that a node needs: ComfyUI offers its download when it is missing."""

    name: str
    url: str
    directory: str

    def entry(self) -> dict[str, str]:
        return {"name": self.name, "url": self.url, "directory": self.directory}


class Canvas:
    """One workflow in the making. Node ids count from 1 in the order of the calls; so do those of links."""

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        self._info = object_info
        self._nodes: list[dict[str, Any]] = []
        self._links: list[list[Any]] = []
        self._groups: list[dict[str, Any]] = []
        self._values: dict[int, dict[str, Any]] = {}

    def column(self, left: float, width: float = WIDTH, top: float = TOP) -> "Column":
        """A place where nodes are put below each other."""
        return Column(self, left, width, top)

    def node(
        self,
        kind: str,
        at: Pair,
        width: float,
        /,
        room: float = 0,
        title: str = "",
        models: Sequence[Model] = (),
        parts: int = 0,
        **widgets: Any,
    ) -> int:
        """Adds a node, its widgets at their defaults but for those given; returns its id.

        room: pixels below the widgets for what the node shows; parts: sockets of an input that grows. Raises KeyError
        for a node or a widget that is not there.
        """
        inputs, named = self._inputs(kind, parts, dict(widgets))
        values = [value for _, value in named]
        ours = kind.startswith("LiveAvatar_")
        properties: dict[str, Any] = {
            "cnr_id": PACK if ours else CORE,
            "ver": PACK_VERSION if ours else CORE_VERSION,
            "Node name for S&R": kind,
        }
        if models:
            properties["models"] = [model.entry() for model in models]
        info = self._info[kind]
        outputs = [
            {"name": name, "type": type_, "links": []}
            for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        sockets = max(sum("widget" not in entry for entry in inputs), len(outputs))
        height = FRAME + SOCKET * sockets + WIDGET * len(values) + room
        number = self._add(kind, at, (width, height), inputs, outputs, properties, values, title)
        self._values[number] = dict(named)
        return number

    def height(self, number: int) -> float:
        """Of a node that was added."""
        return self._nodes[number - 1]["size"][1]

    def note(self, at: Pair, size: Pair, text: str, title: str) -> int:
        """Adds a note in Markdown."""
        return self._add("MarkdownNote", at, size, [], [], {}, [text], title)

    def group(self, title: str, at: Pair, size: Pair, color: str = "#3f789e") -> None:
        """Adds a frame with a title around a part of the canvas."""
        entry = {"id": len(self._groups) + 1, "title": title, "bounding": [*at, *size], "color": color, "flags": {}}
        self._groups.append(entry)

    def link(self, source: int, output: str, target: int, target_input: str) -> None:
        """Connects two nodes by the names of output and input. Raises StopIteration for a name that is not there."""
        giver, taker = self._nodes[source - 1], self._nodes[target - 1]
        slot, socket = _named(giver["outputs"], output)
        place, entry = _named(taker["inputs"], target_input)
        number = len(self._links) + 1
        socket["links"].append(number)
        entry["link"] = number
        self._links.append([number, source, slot, target, place, socket["type"]])

    def workflow(self, name: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The file's content; its id follows from the name."""
        return {
            "id": str(uuid.uuid5(NAMESPACE, name)),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": self._links,
            "groups": self._groups,
            "config": {},
            "extra": dict(extra or {}),
            "version": 0.4,
        }

    def blueprint(
        self,
        name: str,
        description: str,
        inputs: Mapping[str, tuple[int, str]],
        outputs: Mapping[str, tuple[int, str]],
        search_aliases: Sequence[str] = (),
    ) -> dict[str, Any]:
        """All nodes as one subgraph, which ComfyUI lists under its name beside the nodes.

        inputs, outputs: what the subgraph shows -> (node, its input or output). An input that is a widget stays one.
        search_aliases: other words under which the node search finds it.
        """
        subgraph_id = str(uuid.uuid5(NAMESPACE, f"{name} subgraph"))
        takers = [_named(self._nodes[node - 1]["inputs"], end) for node, end in inputs.values()]
        givers = [_named(self._nodes[node - 1]["outputs"], end) for node, end in outputs.values()]
        links = [dict(zip(SUBGRAPH_LINK, link, strict=True)) for link in self._links]
        inner = {"inputs": [], "outputs": []}
        for slot, (label, (node, _), (place, entry)) in enumerate(_rows(inputs, takers)):
            number = len(links) + 1
            entry["link"] = number
            links.append(dict(zip(SUBGRAPH_LINK, (number, INPUTS, slot, node, place, entry["type"]), strict=True)))
            inner["inputs"].append(_boundary(name, label, entry["type"], number, slot))
        for slot, (label, (node, _), (place, entry)) in enumerate(_rows(outputs, givers)):
            number = len(links) + 1
            entry["links"].append(number)
            links.append(dict(zip(SUBGRAPH_LINK, (number, node, place, OUTPUTS, slot, entry["type"]), strict=True)))
            inner["outputs"].append(_boundary(name, label, entry["type"], number, slot))
        subgraph = {
            "id": subgraph_id,
            "version": 1,
            "state": {
                "lastGroupId": len(self._groups),
                "lastNodeId": len(self._nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            "inputNode": {"id": INPUTS, "bounding": [-200, TOP, 120, 40 + SOCKET * len(inputs)]},
            "outputNode": {"id": OUTPUTS, "bounding": [2400, TOP, 120, 40 + SOCKET * len(outputs)]},
            **inner,
            "widgets": [],
            "nodes": self._nodes,
            "groups": self._groups,
            "links": links,
            "extra": {},
            "category": "LiveAvatar",
            "description": description,
        }
        shown = [
            {"name": label, "type": entry["type"], "link": None}
            | ({"widget": {"name": label}} if "widget" in entry else {})
            for label, _, (_, entry) in _rows(inputs, takers)
        ]
        widgets = [label for label, _, (_, entry) in _rows(inputs, takers) if "widget" in entry]
        values = [self._values[node][end] for node, end in inputs.values() if end in self._values.get(node, {})]
        node = {
            "id": 1,
            "type": subgraph_id,
            "pos": [0, 0],
            "size": [400, FRAME + SOCKET * len(inputs) + WIDGET * len(widgets) + 120],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": shown,
            "outputs": [
                {"name": label, "type": entry["type"], "links": []} for label, _, (_, entry) in _rows(outputs, givers)
            ],
            "title": name,
            "properties": {"proxyWidgets": [["-1", label] for label in widgets], "cnr_id": PACK, "ver": PACK_VERSION},
            "widgets_values": values,
        }
        return {
            "id": str(uuid.uuid5(NAMESPACE, name)),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [node],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [subgraph]},
            "extra": {"BlueprintSearchAliases": list(search_aliases)},
        }

    def _add(
        self,
        kind: str,
        at: Pair,
        size: Pair,
        inputs: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        properties: dict[str, Any],
        values: list[Any],
        title: str,
    ) -> int:
        number = len(self._nodes) + 1
        node = {
            "id": number,
            "type": kind,
            "pos": list(at),
            "size": list(size),
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": values,
        }
        self._nodes.append({**node, "title": title} if title else node)
        return number

    def _inputs(
        self, kind: str, parts: int, given: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[tuple[str, Any]]]:
        """Sockets and widgets of a node; names and values of its widgets in the order in which they are saved."""
        entries: list[dict[str, Any]] = []
        values: list[tuple[str, Any]] = []
        for name, type_, options, optional in self._specs(kind, parts):
            if type_ not in WIDGET_TYPES or options.get("forceInput"):
                entries.append(_socket(name, type_, optional))
                continue
            value = given.pop(name, options.get("default", next(iter(options.get("options") or []), None)))
            entries.append({"name": name, "type": type_, "link": None, "widget": {"name": name}})
            values.append((name, value))
            if options.get("control_after_generate"):
                values.append((f"{name} control", "fixed"))
        for name, type_, saved in UPLOAD_WIDGETS.get(kind, ()):
            entries.append({"name": name, "type": type_, "link": None, "widget": {"name": name}})
            values.append((name, saved))
        if given:
            raise KeyError(f"{kind} has no widgets {', '.join(given)}")
        return entries, values

    def _specs(self, kind: str, parts: int) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
        """(name, type, options, whether optional) of all inputs, in the front end's order."""
        info = self._info[kind]
        for section in ("required", "optional"):
            inputs = info["input"].get(section) or {}
            for name in (info.get("input_order") or {}).get(section) or list(inputs):
                if inputs[name][0] == "COMFY_AUTOGROW_V3":
                    template = inputs[name][1]["template"]
                    for number in range(parts):
                        part = template["names"][number]
                        (spec,) = template["input"]["required"].values()
                        yield f"{name}.{part}", spec[0], {}, number >= template["min"]
                    continue
                for found, type_, options in expand(name, inputs[name], None):
                    yield found, type_, options, section == "optional"


@dataclass
class Column:
    """Nodes below each other."""

    canvas: Canvas
    left: float
    width: float
    bottom: float

    def node(self, kind: str, /, **given: Any) -> int:
        """As `Canvas.node`, below the last one."""
        number = self.canvas.node(kind, (self.left, self.bottom), self.width, **given)
        self.bottom += self.canvas.height(number) + GAP
        return number

    def note(self, text: str, title: str, height: float) -> int:
        number = self.canvas.note((self.left, self.bottom), (self.width, height), text, title)
        self.bottom += height + GAP
        return number


Ends = Mapping[str, tuple[int, str]]
Found = list[tuple[int, dict[str, Any]]]


def _rows(ends: Ends, found: Found) -> list[tuple[str, tuple[int, str], tuple[int, dict[str, Any]]]]:
    """(label, (node, end), (slot, entry)) of the inputs or outputs of a subgraph."""
    return [(label, end, entry) for (label, end), entry in zip(ends.items(), found, strict=True)]


def _boundary(name: str, label: str, type_: str, link: int, slot: int) -> dict[str, Any]:
    identity = str(uuid.uuid5(NAMESPACE, f"{name} {label}"))
    return {"id": identity, "name": label, "type": type_, "linkIds": [link], "pos": [0, TOP + SOCKET * slot]}


def _socket(name: str, type_: str, optional: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "type": type_, "link": None}
    if "." in name:
        entry["label"] = name.split(".")[-1]
    return {**entry, "shape": OPTIONAL_SHAPE} if optional else entry


def _named(entries: list[dict[str, Any]], name: str) -> tuple[int, dict[str, Any]]:
    return next((place, entry) for place, entry in enumerate(entries) if entry["name"] == name)
