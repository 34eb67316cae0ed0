"""What may import what, and how large things may be: the layers of docs/ARCHITECTURE.md, held by a test."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("liveavatar_runtime", "liveavatar_workers", "comfy_bridge", "nodes")
ABOVE = {
    "liveavatar_runtime": set[str](),
    "liveavatar_workers": {"liveavatar_runtime"},
    "comfy_bridge": {"liveavatar_runtime", "liveavatar_workers"},
    "nodes": {"liveavatar_runtime", "liveavatar_workers", "comfy_bridge"},
}
"""Package -> the others of ours that it may import."""
GROUND = "ground"
"""The modules of the runtime that are in no folder, but for those in LAYERS: they import only each other."""
LAYERS = (
    GROUND,
    "dit",
    "vae",
    "checkpoint",
    "audio",
    "media",
    "finishing",
    "sampling",
    "judge",
    "spool",
    "live",
    "pipeline",
    "planning",
    "executors",
    "online_video",
)
"""Of the runtime; each imports only what stands before it."""
MAX_LINES = 400
MOST_PARAMETERS = 5
LONG_SIGNATURES = 10
"""Functions of all packages that may have more parameters, but for those in `dictated`."""
TRIES_PER_1000_LINES = 2.5
ANY_SHARE = 0.04
"""Of the annotations in the bridge and the nodes, those that are `Any` or hold one."""
BLOCKER = "comfy_execution.graph_utils.ExecutionBlocker"
"""What a node gives for an output that it has not made."""


def modules(package: str) -> Iterator[tuple[Path, str]]:
    """Each file of a package, with the name of its module."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, module: str) -> Iterator[str]:
    """Full names of what a file imports, wherever it does; names from a package count as its modules."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            target = [*base, *filter(None, [node.module])]
            yield from (".".join([*target, alias.name]) for alias in node.names)


def layer_of(module: str) -> str:
    place = module.split(".")[1] if "." in module else GROUND
    return place if place in LAYERS else GROUND


def edges(package: str) -> Iterator[tuple[str, str]]:
    """(module, module of ours that it imports)."""
    for path, module in modules(package):
        for target in imported(path, module):
            if target.split(".")[0] in PACKAGES:
                yield module, target


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_stands_below_them(package: str) -> None:
    wrong = {
        f"{module} imports {target}"
        for module, target in edges(package)
        if target.split(".")[0] != package and target.split(".")[0] not in ABOVE[package]
    }
    assert not wrong


def test_the_runtime_s_layers_import_only_what_stands_below_them() -> None:
    seen = list(edges("liveavatar_runtime"))
    assert len(seen) > 500, "the imports are not found any more"
    wrong = {
        f"{module} imports {target}"
        for module, target in seen
        if LAYERS.index(layer_of(target)) > LAYERS.index(layer_of(module))
    }
    assert not wrong


def test_every_folder_of_the_runtime_is_a_layer() -> None:
    folders = {path.name for path in (ROOT / "liveavatar_runtime").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(LAYERS) - {GROUND, "online_video"}


def test_the_bridge_alone_touches_comfyui() -> None:
    """But for the nodes' own interface: the V3 schema, and what a node shows."""
    core = {"comfy", "comfy_execution", "folder_paths", "server", "latent_preview", "execution"}
    wrong = {
        f"{module} imports {target}"
        for package in ("nodes", "liveavatar_runtime", "liveavatar_workers")
        for path, module in modules(package)
        for target in imported(path, module)
        if target.split(".")[0] in core and target != BLOCKER
    }
    assert not wrong


def test_files_are_of_one_subject_and_fit_a_reader() -> None:
    long = {
        module: lines for package in PACKAGES for path, module in modules(package) if (lines := count(path)) > MAX_LINES
    }
    assert not long


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes_of(kind: type[ast.AST] | tuple[type[ast.AST], ...], *packages: str) -> Iterator[tuple[str, ast.AST]]:
    """(module, piece of its syntax tree) of all pieces of a kind."""
    for package in packages:
        for path, module in modules(package):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from ((module, node) for node in ast.walk(tree) if isinstance(node, kind))


def parameters(function: Function) -> list[ast.arg]:
    """All of them, but for `self` and `cls`."""
    given = function.args
    named = [*given.posonlyargs, *given.args]
    bound = bool(named) and named[0].arg in ("self", "cls")
    return [*named[bound:], *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]


def dictated(module: str, function: Function) -> bool:
    """Whether ComfyUI dictates the parameters: `execute` of a node has one for each input."""
    return module.startswith("nodes.") and function.name == "execute"


def test_few_functions_have_many_parameters() -> None:
    """What travels together is one object."""
    found = [
        f"{module}.{function.name}: {len(parameters(function))}"
        for module, function in nodes_of((ast.FunctionDef, ast.AsyncFunctionDef), *PACKAGES)
        if isinstance(function, Function)
        and len(parameters(function)) > MOST_PARAMETERS
        and not dictated(module, function)
    ]
    assert len(found) <= LONG_SIGNATURES, "\n".join(found)


def test_errors_are_caught_in_few_places() -> None:
    """Files, devices and sockets have guards of their own (`reading.readable`, `out_of_memory.full_device_told`)."""
    found = [module for module, _ in nodes_of(ast.Try, *PACKAGES)]
    lines = sum(count(path) for package in PACKAGES for path, _ in modules(package))
    assert 1000 * len(found) / lines <= TRIES_PER_1000_LINES, f"{len(found)} in {lines} lines: {Counter(found)}"


def test_comfyui_s_objects_have_types() -> None:
    """`comfy_bridge/comfy_types.py` says what is used of them."""
    annotations = [
        (module, annotation)
        for package in ("comfy_bridge", "nodes")
        for path, module in modules(package)
        for annotation in annotations_in(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(annotations) > 800, "the annotations are not found any more"
    untyped = Counter(module for module, annotation in annotations if holds_any(annotation))
    assert untyped.total() <= ANY_SHARE * len(annotations), f"{untyped.total()} of {len(annotations)}: {untyped}"


def annotations_in(tree: ast.AST) -> Iterator[ast.expr]:
    """Of parameters, results and variables."""
    for node in ast.walk(tree):
        found = {ast.arg: "annotation", ast.AnnAssign: "annotation"}.get(type(node), "returns")
        annotation = getattr(node, found, None)
        if annotation is not None:
            yield annotation


def holds_any(annotation: ast.AST) -> bool:
    """Whether `Any` is or is in an annotation, also in one that is a string."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return holds_any(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Name):
        return annotation.id == "Any"
    return any(holds_any(part) for part in ast.iter_child_nodes(annotation))
