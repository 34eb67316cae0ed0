"""From what a user has (picture, encoded prompt, encoded voice) to the conditions of a plan."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import AvatarConfig
from ..errors import InputError
from ..planning.duration import clips_for_duration
from .conditions import AlignedAudio, Conditions
from .plan import ClipPlan

if TYPE_CHECKING:
    from ..audio.features import AvatarAudio
    from ..vae import WanVAE


STILL_LATENTS = 92
"""Latents of the still video the original makes of a picture (365 frames)."""
PRIMING_LATENTS = 7
"""Latents of it that a streaming decoder is given before the first block, as in the original."""


@dataclass(frozen=True)
class Prepared:
    """Conditions, latents [16, 7, h, w] that prime a decoder, the plan as it will run, and what was changed on the
    way, in words for the user."""

    conditions: Conditions
    priming: Tensor
    plan: ClipPlan
    notes: tuple[str, ...]


def check_audio(audio: "AvatarAudio", config: AvatarConfig) -> None:
    """Raises InputError unless the features are those this transformer reads."""
    _, layers, _, width = audio.features.shape
    if (layers, width) != (config.audio_layers, config.audio_dim):
        raise InputError(
            f"the voice was encoded to {layers} layers of {width} values, this model reads {config.audio_layers} of "
            f"{config.audio_dim}. Use the audio encoder that belongs to the model (14B: wav2vec2_large_english)."
        )


def check_text(text: Tensor, config: AvatarConfig) -> None:
    """Raises InputError unless the prompt was encoded by the text encoder this transformer reads."""
    if text.ndim != 2 or text.shape[1] != config.text_dim:
        raise InputError(
            f"the prompt was encoded to {tuple(text.shape)}, this model reads [tokens, {config.text_dim}]. Use the "
            "text encoder that belongs to the model (14B: umt5_xxl, CLIPLoader type 'wan')."
        )


def clamp_clips(plan: ClipPlan, audio: "AvatarAudio") -> tuple[ClipPlan, tuple[str, ...]]:
    """No more clips than the sound fills; says so."""
    available = clips_for_duration(audio.duration, plan.infer_frames, plan.fps)
    if plan.num_clip <= available:
        return plan, ()
    note = (
        f"num_clip {plan.num_clip} was reduced to {available}: the sound lasts {float(audio.duration):.2f} s, "
        f"which {available} clips of {plan.infer_frames} frames at {float(plan.fps):g} fps cover."
    )
    return plan.clamped_to(available), (note,)


def encode_picture(vae: "WanVAE", picture: Tensor, plan: ClipPlan, device: torch.device, dtype: torch.dtype) -> Tensor:
    """picture [H, W, C] 0..1 -> latents of it as a still video, [16, 92, h, w] in the model's space, float32 on CPU."""
    from ..media.images import fit_picture
    from ..vae import encode_still, to_model_space

    fitted = fit_picture(picture, plan.height, plan.width)
    return to_model_space(encode_still(vae, fitted.to(device=device, dtype=dtype), STILL_LATENTS).float()).cpu()


def prepare(
    plan: ClipPlan,
    config: AvatarConfig,
    picture: Tensor,
    text: Tensor,
    audio: "AvatarAudio",
    vae: "WanVAE",
    device: torch.device,
    dtype: torch.dtype,
    actor_masks: Tensor | None = None,
) -> Prepared:
    """Check everything, fit the plan to the picture and the sound, encode the picture (on `device`, in `dtype`)."""
    check_audio(audio, config)
    check_text(text, config)
    plan, notes = clamp_clips(plan.fitted_to(picture.shape[0], picture.shape[1]), audio)
    still = encode_picture(vae, picture, plan, device, dtype)
    conditions = Conditions(
        text=text.float().cpu(),
        reference=still[:, 1:2],
        motion=still[:, -config.motion_frames[1] :],
        audio=AlignedAudio(audio, plan.fps),
        actor_masks=actor_masks,
    )
    return Prepared(conditions, still[:, :PRIMING_LATENTS], plan, notes)
