"""Trains the demo of 128x128 and writes its bundle: `python -m demo.people.training --output DIR`.

Begins with the models of 64x64. Stops and continues at any time: what is in the checkpoint folder is not computed
again.
"""

import argparse
from pathlib import Path

from demo.training.__main__ import DEMO, finish, start

from ..canvas import UNITS

STAGES = "demo.people.training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEMO.parent / "build" / "people", help="videos, checkpoints")
    parser.add_argument("--base", type=Path, default=DEMO / "liveavatar-demo", help="bundle of 64x64")
    parser.add_argument("--output", type=Path, required=True, help="bundle to write")
    parser.add_argument("--decoder-steps", type=int, default=2600)
    arguments = parser.parse_args()
    folder, base, output = (path.resolve() for path in (arguments.folder, arguments.base, arguments.output))

    def run(stage: str, *options: str | Path) -> None:
        finish(start(stage, "--folder", folder, *options, package=STAGES))

    run("draw_videos")
    vae = base / "Wan2.1_VAE.safetensors"
    # They need nothing of each other.
    audio = None if (folder / "audio.pt").exists() else start("train_audio", "--folder", folder, package=STAGES)
    if not (folder / "vae.pt").exists():
        run("train_vae", "--base", vae)
    if audio is not None:
        finish(audio)
    # Both go on from vae.pt; the transformer learns the encoder's latents, which stay as they are.
    decoder = start(
        "train_vae", "--folder", folder, "--base", vae, "--decoder-steps", str(arguments.decoder_steps), package=STAGES
    )
    run("train_dit", "--base", base)
    finish(decoder)
    finish(start("export", "--folder", folder, "--base", base, "--output", output, "--side", str(UNITS)))


if __name__ == "__main__":
    main()
