"""Where the modules of the pack are, by their names."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def folder_of(module: str) -> str:
    """ "nodes" or "comfy_bridge"."""
    return next(folder for folder in ("nodes", "comfy_bridge") if (ROOT / folder / f"{module}.py").is_file())
