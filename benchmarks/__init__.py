"""Measurements of the pack: each is a command, `python -m benchmarks.NAME`, run in the checkout's root.

What they share with the tests (starting a real ComfyUI, tiny models, facts of a file) is in the tests' and the
scripts' folders, which are no packages: their modules are found by these folders.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.extend(str(ROOT / folder) for folder in ("scripts", "tests/runtime", "tests/server", "tests/comfy_parity"))
