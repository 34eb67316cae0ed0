"""Trains the demo model from nothing and writes its bundle: `python -m demo.training`.

Stops and continues at any time: what is in the checkpoint folder is not computed again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
DECODER_STEPS = 1000


def start(stage: str, *options: str | Path, package: str = "demo.training") -> subprocess.Popen[bytes]:
    print("==", stage, *options, flush=True)
    return subprocess.Popen([sys.executable, "-m", f"{package}.{stage}", *map(str, options)], cwd=DEMO.parent)


def run(stage: str, *options: str | Path) -> None:
    finish(start(stage, *options))


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args} failed; what it had done is kept, the same command goes on")


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
    # Both go on from vae.pt; the transformer learns the encoder's latents, which stay as they are.
    with start("train_vae", "--folder", folder, "--decoder-steps", str(DECODER_STEPS)) as decoder:
        run("train_dit", "--folder", folder, "--bundle", base)
    finish(decoder)
    run("export", "--folder", folder, "--base", base, "--output", output)


if __name__ == "__main__":
    main()
