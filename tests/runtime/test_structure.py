"""What may import what, and how large things may be: the layers of docs/ARCHITECTURE.md, held by a test."""

import ast
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
    "sampling",
    "spool",
    "pipeline",
    "planning",
    "executors",
    "online_video",
)
"""Of the runtime; each imports only what stands before it."""
MAX_LINES = 400
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
