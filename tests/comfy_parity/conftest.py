"""ComfyUI imported in this process, on the CPU."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pack(comfy) -> ModuleType:
    """The pack, imported by its path under a path-like name, as ComfyUI does; its model folders are registered."""
    name = str(ROOT).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # Not on_load(): that would also put the demo's files into ComfyUI's input folder.
    importlib.import_module(f"{name}.comfy_bridge.folders").register_folders()
    return module


@pytest.fixture(scope="session")
def core_model(pack: ModuleType) -> Any:
    """The pack's comfy_bridge/core_model.py."""
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.core_model")


@pytest.fixture(scope="session")
def comfy():
    """The `comfy` package of the ComfyUI under COMFYUI_PATH (default: the one scripts/test.sh prepared)."""
    folder = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    assert (folder / "main.py").is_file(), f"no ComfyUI in {folder}: run bash scripts/test.sh, or set COMFYUI_PATH"
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    return comfy
