"""Where things are in a folder that `pack.py` made."""

import atexit
import shutil
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path


def comfyui_folder(given: Path) -> Path:
    """ComfyUI's own folder. Raises FileNotFoundError when there is none."""
    root = given if (given / "comfy").is_dir() else given / "ComfyUI"
    if not (root / "comfy").is_dir():
        raise FileNotFoundError(f"{given} has neither comfy/ nor ComfyUI/comfy/; make it with benchmarks.card.pack")
    return root


@lru_cache(maxsize=1)
def make_packages_importable(given: Path) -> None:
    """Wheels are unpacked for this process, into a temporary folder."""
    found = [given / "packages"] if (given / "packages").is_dir() else []
    for wheel in sorted((given / "wheels").glob("*.whl")):
        unpacked = Path(tempfile.mkdtemp(prefix="live-avatar-wheel-"))
        atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
        with zipfile.ZipFile(wheel) as content:
            content.extractall(unpacked)
        found.append(unpacked)
    # Behind what is installed: only what the machine lacks comes from the folder.
    sys.path.extend(map(str, found))
