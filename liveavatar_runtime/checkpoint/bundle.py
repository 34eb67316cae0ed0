"""A model folder in the official layout: which file in it is what."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..reading import first_file, read_json
from .detect import config_beside

MODEL_PATTERN = "diffusion_pytorch_model*.safetensors*"
VAE_NAMES = ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth")
TEXT_ENCODER_NAMES = (
    "umt5/model.safetensors",
    "models_t5_umt5-xxl-enc-bf16.safetensors",
    "models_t5_umt5-xxl-enc-bf16.pth",
)
TEXT_CONFIG_NAMES = ("umt5/config.json",)
TOKENIZER_NAMES = ("umt5/spiece.model", "google/umt5-xxl/spiece.model")
VIDEO_SIZE = "video_size"
"""Key of `config.json`: [width, height] of the only size that the model was trained at, if there is one."""
LARGEST_SIDE = 2**16
LORA_NAMES = ("liveavatar.safetensors",)
AUDIO_ENCODER_PATTERN = "wav2vec2*"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Paths of one model folder; None for what the folder does not hold.

    `model` and `wav2vec2` are folders that `open_checkpoint` reads; `text_config` exists beside text encoders in
    Hugging Face names (`umt5/`), not beside the official archive.
    """

    folder: Path
    config: Path
    model: Path
    vae: Path | None
    text_encoder: Path | None
    text_config: Path | None
    tokenizer: Path | None
    wav2vec2: Path | None
    lora: Path | None

    @property
    def video_size(self) -> tuple[int, int] | None:
        """(width, height) of the only size that the model knows; None when its config names none.

        Raises CheckpointError when the config names something else.
        """
        size = read_json(self.config).get(VIDEO_SIZE)
        if size is None:
            return None
        sides = size if isinstance(size, list) else []
        if len(sides) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
            raise CheckpointError(f"{self.config}: {VIDEO_SIZE} is {size!r}; it must be [width, height] in pixels")
        return sides[0], sides[1]


def is_bundle(folder: str | Path) -> bool:
    """Whether the folder has the official layout; only names are looked at, so listing folders is cheap."""
    folder = Path(folder)
    return (folder / "config.json").is_file() and any(folder.glob(MODEL_PATTERN))


def find_bundle(folder: str | Path) -> Bundle:
    """Paths of the folder's parts. Raises CheckpointError when it holds no S2V transformer or no config of one,
    or something else than a file, such as a link to nothing, in place of a part."""
    folder = Path(folder)
    if not is_bundle(folder) or config_beside(folder) is None:
        raise CheckpointError(
            f"{folder} is not a Live Avatar model folder; it must hold config.json (model_type s2v) and "
            f"{MODEL_PATTERN}, as the official Wan2.2-S2V-14B folder does"
        )
    text_encoder = first_file(folder, TEXT_ENCODER_NAMES)
    return Bundle(
        folder=folder,
        config=folder / "config.json",
        model=folder,
        vae=first_file(folder, VAE_NAMES),
        text_encoder=text_encoder,
        text_config=first_file(folder, TEXT_CONFIG_NAMES),
        tokenizer=first_file(folder, TOKENIZER_NAMES),
        wav2vec2=next((path for path in sorted(folder.glob(AUDIO_ENCODER_PATTERN)) if path.is_dir()), None),
        lora=first_file(folder, LORA_NAMES),
    )
