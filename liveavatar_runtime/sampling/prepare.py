"""From what a user has (picture, encoded prompt, encoded voice) to the conditions of a plan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..aligned import align_weights, aligned
from ..audio.features import broken_text
from ..config import AvatarConfig
from ..duration import clips_for_frames
from ..errors import InputError
from ..out_of_memory import pictures_told
from ..progress import Progress
from .cause_of_nan import broken_in
from .conditions import AlignedAudio, Conditions
from .plan import ClipPlan
from .plan_request import reduced_note
from .timed_changes import same_values

if TYPE_CHECKING:
    from ..audio.voice import Voice
    from ..vae import PlacedVAE, WanVAE


PRIMING_LATENTS = 7
"""Latents of the motion history that a streaming decoder is given before the first block.

The original's streaming program takes the first 7 of the still video, where the VAE's encoder has not settled yet.
The last 7 cost the same and come much closer to what its offline program decodes after all 92 of them.
"""
HISTORY_START = 73
"""First latent of the motion history: the original takes the last 19 of the 92 that 365 still frames give."""
REFERENCE = (1, 1)
"""The reference is the second latent of the picture as a still video."""


@dataclass(frozen=True)
class Inputs:
    """What a user gives: a picture [H, W, C] 0..1, a prompt that was encoded [tokens, text_dim], a voice that was, and
    where several speak, which parts of the picture are whose [actors, frames, h, w]. `texts`, `pictures`: what replaces
    prompt and picture from a block on, where the plan's script says so."""

    picture: Tensor
    text: Tensor
    audio: "Voice"
    actor_masks: Tensor | None = None
    texts: Mapping[int, Tensor] = field(default_factory=dict)
    pictures: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Conditions, latents [16, 7, h, w] that prime a decoder, the plan as it will run, and what was changed on the
    way, in words for the user."""

    conditions: Conditions
    priming: Tensor
    plan: ClipPlan
    notes: tuple[str, ...]


def check_audio(audio: "Voice", config: AvatarConfig) -> None:
    """Raises InputError unless the features are those this transformer reads."""
    layers, width = audio.encoded_to
    if (layers, width) != (config.audio_layers, config.audio_dim):
        raise InputError(
            f"the voice was encoded to {layers} layers of {width} values, this model reads {config.audio_layers} of "
            f"{config.audio_dim}. Use the audio encoder that belongs to the model (14B: wav2vec2_large_english)."
        )


def check_text(text: Tensor, config: AvatarConfig) -> None:
    """Raises InputError unless the prompt was encoded, to finite values, by the text encoder this transformer reads."""
    if text.ndim != 2 or text.shape[1] != config.text_dim:
        raise InputError(
            f"the prompt was encoded to {tuple(text.shape)}, this model reads [tokens, {config.text_dim}]. Use the "
            "text encoder that belongs to the model (14B: umt5_xxl, CLIPLoader type 'wan')."
        )
    if not text.isfinite().all():
        raise InputError(
            "the prompt was encoded to values that are not numbers (NaN or infinite): the text encoder's precision is "
            "too low. Use umt5_xxl in bf16 or fp8, or start ComfyUI with --fp32-text-enc."
        )


def check_voice(audio: "Voice") -> None:
    """Raises InputError unless all of the sound and what it was encoded to are numbers; reads all of both. What of a
    long track, or of a live voice, is still to be encoded is looked at when it is."""
    if not audio.is_live and broken_in(audio.waveform):
        raise InputError(
            "the voice has samples that are not numbers (NaN or infinite): check the node that made the sound."
        )
    if audio.broken:
        raise InputError(broken_text(audio.broken, audio.values))


def check_masks(masks: Tensor | None) -> None:
    """Raises InputError unless the actors' masks are numbers."""
    if masks is not None and broken_in(masks):
        raise InputError("the actors' masks have values that are not numbers (NaN or infinite): check what made them.")


def check_encoded(vae: "WanVAE", latents: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Raises InputError unless a VAE encoded a picture of numbers to numbers; says what of the VAE is to blame."""
    if not any(broken_in(tensor) for tensor in latents):
        return
    told = "the VAE encoded the picture to values that are not numbers (NaN or infinite)"
    for name, weight in vae.state_dict().items():
        if broken_in(weight):
            raise InputError(
                f"{told}: its weight {name} holds such values. Get the VAE's file again (wan_2.1_vae.safetensors)."
            )
    raise InputError(
        f"{told}, though its weights and the picture are: {str(dtype).removeprefix('torch.')} is too small a format. "
        "Start ComfyUI with --bf16-vae or --fp32-vae."
    )


def clamp_clips(plan: ClipPlan, audio: "Voice") -> tuple[ClipPlan, tuple[str, ...]]:
    """No more clips than the sound fills; says so. A live voice fills all that is asked for."""
    if audio.is_live:
        return plan, ()
    clamped = plan.clamped_to(clips_for_frames(audio.video_frames(plan.fps), plan.infer_frames))
    return clamped, () if clamped is plan else (reduced_note(plan.num_clip, clamped, audio),)


def encode_picture(
    place: "PlacedVAE", picture: Tensor, plan: ClipPlan, motion_latents: int, progress: "Progress | None" = None
) -> tuple[Tensor, Tensor]:
    """picture [H, W, C] 0..1 -> reference [16, 1, h, w], motion history [16, n, h, w] in the model's space.

    Float32 on the CPU. progress: called as (layers done, layers in all); may raise to stop. Raises InputError when the
    latents are not numbers.
    """
    reference, history = _encoded_parts(place, picture, plan, (REFERENCE, (motion_latents, HISTORY_START)), progress)
    return reference, history


def _encoded_parts(
    place: "PlacedVAE",
    picture: Tensor,
    plan: ClipPlan,
    parts: tuple[tuple[int, int], ...],
    progress: "Progress | None" = None,
) -> list[Tensor]:
    """Parts (latents, first one) of a picture as a still video, each [16, n, h, w] in the model's space."""
    from ..media.images import fit_picture
    from ..vae import encode_still, still_chunks, to_model_space
    from ..vae.state import counted, go_on

    vae, device, dtype = place.vae, place.device, place.dtype
    chunks = sum(still_chunks(vae.config, *part) for part in parts)
    on_layer = counted(progress, chunks * vae.encoder.layers) if progress else go_on
    with pictures_told("encoding the picture at {size}", (plan.width, plan.height), device), torch.inference_mode():
        fitted = aligned(fit_picture(picture, plan.height, plan.width).to(device=device, dtype=dtype))
        align_weights(vae, device)
        encoded = [encode_still(vae, fitted, *part, on_layer=on_layer) for part in parts]
    check_encoded(vae, encoded, dtype)
    return [to_model_space(latents.float()).cpu() for latents in encoded]


def encode_reference(place: "PlacedVAE", picture: Tensor, plan: ClipPlan) -> Tensor:
    """picture [H, W, C] 0..1 -> reference [16, 1, h, w] alone, as `encode_picture` gives it."""
    (reference,) = _encoded_parts(place, picture, plan, (REFERENCE,))
    return reference


def encode_references(
    place: "PlacedVAE", pictures: Mapping[int, Tensor], plan: ClipPlan, known: tuple[Tensor, Tensor]
) -> dict[int, Tensor]:
    """The reference of each picture by block; equal pictures are encoded once. `known`: a picture and its reference."""
    encoded, references = [known], {}
    for block, picture in pictures.items():
        found = next((reference for other, reference in encoded if same_values(other, picture)), None)
        if found is None:
            found = encode_reference(place, picture, plan)
            encoded.append((picture, found))
        references[block] = found
    return references


def prepare(
    plan: ClipPlan, config: AvatarConfig, given: Inputs, place: "PlacedVAE", progress: "Progress | None" = None
) -> Prepared:
    """Check everything, fit the plan to the picture and the sound, encode the picture, and those of a script."""
    picture, audio = given.picture, given.audio
    check_audio(audio, config)
    for text in (given.text, *given.texts.values()):
        check_text(text, config)
    check_voice(audio)
    check_masks(given.actor_masks)
    plan, notes = clamp_clips(plan.fitted_to(picture.shape[0], picture.shape[1]), audio)
    reference, history = encode_picture(place, picture, plan, config.motion_frames[1], progress)
    conditions = Conditions(
        text=given.text.float().cpu(),
        reference=reference,
        motion=history,
        audio=AlignedAudio(audio, plan.fps),
        actor_masks=given.actor_masks,
        texts={block: text.float().cpu() for block, text in given.texts.items()},
        pictures=encode_references(place, given.pictures, plan, (picture, reference)),
    )
    return Prepared(conditions, history[:, -PRIMING_LATENTS:], plan, notes)
