"""Nodes that give what other packs give and ours would not: installed beside the pack in the tests' ComfyUI only.

Every module `odd_*.py` in this folder has a NODE_CLASS_MAPPINGS of its own.
"""

import importlib
from pathlib import Path
from typing import Any

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
for _file in sorted(Path(__file__).parent.glob("odd_*.py")):
    NODE_CLASS_MAPPINGS.update(importlib.import_module(f".{_file.stem}", __name__).NODE_CLASS_MAPPINGS)
