"""What the model takes of a CONDITIONING: one encoded text. What else was put on it is named for the user."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.prompt import read_rows

PROMPT_TOKENS = "liveavatar_prompt_tokens"
"""Setting of a conditioning of ours: how many tokens the text had, when only its beginning was encoded."""

POSITIVE = "the positive input"
_READ = {"pooled_output", PROMPT_TOKENS}
"""Wan's text encoder gives `pooled_output` None and Wan's transformer takes none."""
_MASK = "the mask"
_AREA = "the area"
_HOOKS = "the hooks (LoRAs or weights that change while sampling)"
_WORDS = {
    "mask": _MASK,
    "mask_strength": _MASK,
    "set_area_to_bounds": _MASK,
    "area": _AREA,
    "control": "the ControlNet",
    "control_apply_to_uncond": "the ControlNet",
    "gligen": "the text boxes (GLIGEN)",
    "hooks": _HOOKS,
    "clip_start_percent": _HOOKS,
    "clip_end_percent": _HOOKS,
    "guidance": "the guidance",
    "clip_vision_output": "the CLIP vision picture (the picture goes into image)",
    "concat_latent_image": "the start picture (the picture goes into image)",
    "concat_mask": "the start picture (the picture goes into image)",
    "reference_latents": "the reference picture (it goes into image)",
    "reference_motion": "the reference motion (segments go on by themselves)",
    "audio_embed": "the encoded voice (it goes into avatar_audio)",
    "control_video": "the control video",
}
"""What users call a setting. Others are named as they are stored."""


@dataclass(frozen=True)
class Prompt:
    """text: the encoded prompt as the model reads it, [tokens, width]. warnings: what was not used, for the user."""

    text: Tensor
    warnings: tuple[str, ...]


def read_prompt(conditioning: object, text_len: int, holder: str = POSITIVE) -> Prompt:
    """The one text of a CONDITIONING, of which the model reads `text_len` tokens. `holder`: what has it, for messages.

    Raises InputError when there is none or more than one. Everything that has no effect is in the warnings: tokens
    past `text_len`, a batch, and every setting that nodes put on the conditioning.
    """
    rows, settings = _only_entry(conditioning, holder)
    text, tokens = read_rows(rows[0] if rows.ndim == 3 else rows, text_len)
    tokens = max(tokens, cast(int, settings.get(PROMPT_TOKENS, 0)))
    warnings = []
    if tokens > text_len:
        warnings.append(
            f"The prompt has {tokens} tokens and the model reads {text_len}: the end of the text has no effect. "
            "Make it shorter."
        )
    if not tokens:
        warnings.append(
            "The prompt is empty (all zeros, as Conditioning Zero Out makes it): the model is told nothing about the "
            "scene. Connect CLIP Text Encode."
        )
    if rows.ndim == 3 and rows.shape[0] > 1:
        warnings.append(f"The prompt is a batch of {rows.shape[0]} texts; the model takes one, and the first is used.")
    return Prompt(text, (*warnings, *_without_effect(settings)))


def _only_entry(conditioning: object, holder: str) -> tuple[Tensor, dict[str, object]]:
    """Rows [tokens, width] or [batch, tokens, width] and the settings of a conditioning that holds one text."""
    if not isinstance(conditioning, (list, tuple)) or not conditioning:
        raise InputError(f"{holder} holds no prompt. Connect CLIP Text Encode.")
    if len(conditioning) != 1:
        raise InputError(
            f"{holder} holds {len(conditioning)} prompts; the model takes one. Combine the texts in one "
            "CLIP Text Encode instead of Conditioning (Combine)."
        )
    rows, *settings = conditioning[0]
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.ndim not in (2, 3) or not rows.numel():
        found = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(
            f"{holder} holds {found} instead of an encoded prompt [1, tokens, width] of floats. Connect "
            "CLIP Text Encode."
        )
    return rows, dict(settings[0]) if settings else {}


def _without_effect(settings: dict[str, object]) -> tuple[str, ...]:
    """One sentence about all settings that a sampler would read and this model does not; none when there are none."""
    given = {
        name: value
        for name, value in settings.items()
        if name not in _READ and value is not None and value is not False
    }
    # These values are what holds without the setting.
    start, end, strength = given.pop("start_percent", 0.0), given.pop("end_percent", 1.0), given.pop("strength", 1.0)
    words = [_WORDS.get(name, name) for name in given]
    if (start, end) != (0.0, 1.0):
        words.append(f"the timestep range {start} to {end} (every step reads the prompt)")
    if strength != 1.0:
        words.append(f"the strength {strength}")
    if not words:
        return ()
    *others, last = dict.fromkeys(words)
    listed = f"{', '.join(others)} and {last}" if others else last
    return (
        f"Without effect on this prompt: {listed}. The model reads the text alone; take out the nodes that set this.",
    )
