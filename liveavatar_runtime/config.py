"""Architecture of the diffusion transformer: field names as in the original `config.json`, presets for 14B and demo."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .duration import FRAMES_PER_LATENT
from .errors import InputError
from .latent_space import CHANNELS, PATCH

FRAME_PACK_BUCKETS = (1, 2, 16)
"""Latent frames a packed token covers at full, half and quarter resolution; they fix the packer's three kernels."""

LARGEST_SIZE = 2**20
"""Of anything in a config: the 14B model has no 20,000 of anything."""

ADAPTIVE_NORM_MODE = "attn_norm"
FRAME_PACK_DROP_MODE = "padd"
# Keys of the original config that select code paths this runtime does not have, with the value they must have.
FIXED_FIELDS: dict[str, Any] = {
    "model_type": "s2v",
    "enable_adain": True,
    "adain_mode": ADAPTIVE_NORM_MODE,
    "zero_timestep": True,
    "enable_motioner": False,
    "enable_framepack": True,
    "framepack_drop_mode": FRAME_PACK_DROP_MODE,
    "enable_tsm": False,
    "trainable_token_pos_emb": False,
    "qk_norm": True,
    "cross_attn_norm": True,
    "local_attn_size": -1,
}


@dataclass(frozen=True, kw_only=True)
class AvatarConfig:
    """Sizes of a Wan2.2-S2V transformer.

    `audio_layers` (wav2vec2 hidden states that are mixed) and `motion_frames` (video frames, latent frames of the
    motion history) are constants of the original program rather than keys of its `config.json`.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    audio_inject_layers: tuple[int, ...]
    audio_dim: int = 1024
    audio_layers: int = 25
    num_audio_token: int = 4
    cond_dim: int = CHANNELS
    in_dim: int = CHANNELS
    out_dim: int = CHANNELS
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    eps: float = 1e-6
    patch_size: tuple[int, int, int] = PATCH
    motion_frames: tuple[int, int] = (73, 19)

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise InputError(
                f"dim {self.dim} and num_heads {self.num_heads} do not give an even head size; "
                "dim must be a multiple of 2 * num_heads"
            )
        if self.dim % 4:
            raise InputError(f"dim {self.dim} must be a multiple of 4: the audio encoder works at dim / 4")
        outside = [layer for layer in self.audio_inject_layers if not 0 <= layer < self.num_layers]
        if outside:
            raise InputError(
                f"audio_inject_layers {outside} do not exist; the model has layers 0..{self.num_layers - 1}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AvatarConfig":
        """From the original's `config.json` content; keys without meaning here are ignored.

        Raises InputError when a required size is missing or a key selects a variant that is not supported.
        """
        for key, needed in FIXED_FIELDS.items():
            given = values.get(key, needed)
            if given != needed:
                raise InputError(f"config key {key} is {given!r}; Live Avatar models have {needed!r}")
        known = {field.name for field in fields(cls)}
        kept: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known
        }
        if "motion_frames" in kept:
            kept["motion_frames"] = _motion_frames(kept["motion_frames"])
        missing = sorted({"dim", "ffn_dim", "num_heads", "num_layers", "audio_inject_layers"} - kept.keys())
        if missing:
            raise InputError(f"the model config lacks {', '.join(missing)}; take the config.json of the model's folder")
        for key, value in kept.items():
            _check_value(key, value)
        return cls(**kept)

    def to_dict(self) -> dict[str, Any]:
        """Content of a `config.json` that `from_dict` and the original read."""
        return {**FIXED_FIELDS, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}


def _check_value(key: str, value: Any) -> None:
    """Raises InputError for a value that is no size, no list of layers, or no small number, whatever `key` needs."""
    if key == "eps":
        good, needed = _is_number(value) and 0 < value < 1, "a number between 0 and 1, such as 1e-6"
    elif key == "audio_inject_layers":
        good = isinstance(value, tuple) and all(_is_size(layer, 0) for layer in value) and len({*value}) == len(value)
        needed = "a list of different layer numbers"
    elif key in ("patch_size", "motion_frames"):
        good, count = isinstance(value, tuple) and all(map(_is_size, value)), 3 if key == "patch_size" else 2
        good, needed = good and len(value) == count, f"a list of {count} whole numbers from 1 to {LARGEST_SIZE:,}"
    else:
        good, needed = _is_size(value), f"a whole number from 1 to {LARGEST_SIZE:,}"
    if not good:
        shown = list(value) if isinstance(value, tuple) else value
        raise InputError(f"config key {key} is {shown!r}; it must be {needed}")


def _is_size(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= LARGEST_SIZE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _motion_frames(given: Any) -> tuple[int, int]:
    """(video frames, latent frames); programs of Wan2.2-S2V write the first alone, from which the second follows.

    Raises InputError for anything else.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given, (given + 3) // FRAMES_PER_LATENT
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(n, int) and n > 0 for n in given):
        return given
    shown = list(given) if isinstance(given, tuple) else given
    raise InputError(f"config key motion_frames is {shown!r}; it must be a number of video frames (73), or [73, 19]")


WAN_S2V_14B = AvatarConfig(
    dim=5120,
    ffn_dim=13824,
    num_heads=40,
    num_layers=40,
    audio_inject_layers=(0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
)

# head_dim, freq_dim and text_len stay at the 14B values, so that ComfyUI's core detects and loads the file too.
DEMO = AvatarConfig(
    dim=128,
    ffn_dim=256,
    num_heads=1,
    num_layers=4,
    audio_inject_layers=(0, 2),
    audio_dim=32,
    text_dim=64,
)
