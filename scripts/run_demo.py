"""Makes a talking-avatar video with the demo model, on a fresh machine as on a prepared one, on every system.

python scripts/run_demo.py [--image F] [--audio F] [--prompt TEXT] [--num-clip N] [--output DIR] [--serve] [--port N]
"""

import os
import subprocess
import sys

from demo_workflow import parse_arguments
from prepare import ROOT, WORK, prepare_demo, told


def main(arguments: list[str]) -> int:
    # A wrong path or option is told before minutes of downloading.
    parse_arguments(arguments)
    prepared = prepare_demo()
    script = str(ROOT / "scripts" / "demo_workflow.py")
    command = [prepared.python, script, "--comfyui", str(prepared.comfyui), "--base", str(WORK / "base"), *arguments]
    if os.name == "posix":
        os.execv(prepared.python, command)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
