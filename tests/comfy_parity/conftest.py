"""ComfyUI imported in this process, on the CPU."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
