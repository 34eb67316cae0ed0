"""Trains the demo model from nothing and writes its bundle: `python -m demo.training`.

Stops and continues at any time: what is in the checkpoint folder is not computed again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
DECODER_STEPS = 900


def run(stage: str, *options: str | Path) -> None:
    print(f"== {stage}", flush=True)
    subprocess.run([sys.executable, "-m", f"demo.training.{stage}", *map(str, options)], check=True, cwd=DEMO.parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEMO.parent / "build" / "demo", help="checkpoints")
    parser.add_argument("--base", type=Path, default=DEMO / "liveavatar-demo", help="bundle with the text encoder")
    parser.add_argument("--output", type=Path, required=True, help="bundle to write")
    arguments = parser.parse_args()
    folder, base, output = (path.resolve() for path in (arguments.folder, arguments.base, arguments.output))
    if not (folder / "audio.pt").exists():
        run("train_audio", "--folder", folder)
    if not (folder / "vae.pt").exists():
        run("train_vae", "--folder", folder)
    run("train_dit", "--folder", folder, "--bundle", base)
    if not (folder / "vae_refined.pt").exists():
        run("train_vae", "--folder", folder, "--decoder-steps", str(DECODER_STEPS))
    run("export", "--folder", folder, "--base", base, "--output", output)


if __name__ == "__main__":
    main()
