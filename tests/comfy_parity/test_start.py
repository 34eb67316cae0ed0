"""The pack must not slow ComfyUI's start: what it imports then, beside what ComfyUI has imported already."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"accelerate", "av", "cv2", "gguf", "torchaudio", "torchvision", "scipy"}
IMPORT = """
import importlib.util, json, sys
from pathlib import Path
import torch
import comfy.options
comfy.options.enable_args_parsing(False)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.sd, comfy_api.latest, comfy_execution.progress
root = Path(sys.argv[1])
heavy = json.loads(sys.argv[2])
for name in [name for name in sys.modules if name.split(".")[0] in heavy]:
    # ComfyUI itself may have it: only what the pack asks for counts.
    del sys.modules[name]
spec = importlib.util.spec_from_file_location("the_pack", root / "__init__.py", submodule_search_locations=[str(root)])
pack = importlib.util.module_from_spec(spec)
sys.modules["the_pack"] = pack
spec.loader.exec_module(pack)
print("IMPORTED", json.dumps(sorted({name.split(".")[0] for name in sys.modules} & set(heavy))))
"""


def test_importing_the_pack_imports_no_heavy_package():
    folder = os.environ.get("COMFYUI_PATH", str(ROOT / ".comfyui" / "ComfyUI"))
    command = [sys.executable, "-c", IMPORT, str(ROOT), json.dumps(sorted(HEAVY))]
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("IMPORTED")]
    assert lines == ["IMPORTED []"], done.stdout[-2000:] + done.stderr[-2000:]
