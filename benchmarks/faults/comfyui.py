"""ComfyUI and the pack's nodes imported in this process, on the CPU, with the folders of a run."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pack_modules import folder_of

from benchmarks import ROOT

PACK = "liveavatar_pack"


def import_pack() -> None:
    """ComfyUI under COMFYUI_PATH (default: the one that scripts/prepare.sh fetched) and this checkout as its pack."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    assert (comfyui / "main.py").is_file(), f"no ComfyUI in {comfyui}: run bash scripts/prepare.sh, or set COMFYUI_PATH"
    sys.path.insert(0, str(comfyui))
    importlib.import_module("comfy.options").enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    # No browser listens to what nodes show.
    importlib.import_module("server").PromptServer.instance = None


def node_module(name: str) -> ModuleType:
    """A module of nodes/."""
    return importlib.import_module(f"{PACK}.{folder_of(name)}.{name}")


def use_folders(output: Path, temp: Path, user: Path) -> None:
    """Where ComfyUI's files go from now on."""
    folders: Any = importlib.import_module("folder_paths")
    folders.set_output_directory(str(output))
    folders.set_temp_directory(str(temp))
    folders.set_user_directory(str(user))


def on_progress(done: Callable[[int], None]) -> None:
    """Hear how far the nodes are."""
    importlib.import_module("comfy.utils").set_progress_bar_global_hook(lambda value, *_, **__: done(value))
