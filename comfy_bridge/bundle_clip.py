"""The text encoder of a bundle as ComfyUI's own CLIP object, at the bundle's sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from torch import Tensor

from liveavatar_runtime.checkpoint.bundle import Bundle
from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.checkpoint.umt5 import (
    check_config,
    expected_shapes,
    hugging_face_names,
    infer_config,
    is_archive,
)
from liveavatar_runtime.errors import CheckpointError
from liveavatar_runtime.out_of_memory import full_device_told
from liveavatar_runtime.reading import read_bytes, read_json, readable

from .folders import maps_files
from .prompt_input import PROMPT_TOKENS

# Core's signatures only admit the class of their default, which is CLIP's, not T5's.
T5: Any = comfy.text_encoders.t5.T5
SENTENCE_PIECE: Any = SPieceTokenizer

CLIP_NAME = "umt5xxl"
"""Name under which Wan's text encoder lists its tokens in ComfyUI; other nodes look for it."""
TEXT_TOKENS = 512
"""Tokens that Wan's transformers read: shorter texts are padded to it, and of longer ones no more is encoded, as in the
original. Attention over all tokens of 100,000 characters would take 160 GB in umT5-xxl."""
PAD, END = 0, 1
LARGEST_TOKENIZER = 64 * 2**20
_Entry = TypeVar("_Entry")
MODEL_PART = f"{CLIP_NAME}.transformer."


def load_bundle_clip(bundle: Bundle) -> comfy.sd.CLIP | None:
    """A CLIP whose conditioning is [1, 512, d_model] in float32, rows of padding zero, pooled None.

    Of a longer text the first 511 tokens and the end mark are encoded, and the conditioning says how many there were.
    None when the bundle has no text encoder or tokenizer of its own.
    Raises CheckpointError when weights, config and tokenizer do not belong together.
    """
    if bundle.text_encoder is None or bundle.tokenizer is None:
        return None
    with readable(bundle.text_encoder, "a text encoder"):
        weights, _ = read_weight_file(bundle.text_encoder, mapped=maps_files())
        if is_archive(weights):
            weights = hugging_face_names(weights)
        config = infer_config(weights)
    if bundle.text_config:
        with readable(bundle.text_config, "a text encoder's config"):
            config = check_config(read_json(bundle.text_config), weights)
    _check_weights(bundle, expected_shapes(config), weights)
    spiece = _read_tokenizer(bundle, bundle.tokenizer, config["vocab_size"])
    # The texts of core's errors name no file.
    with readable(bundle.text_encoder, "a text encoder"):
        clip = comfy.sd.CLIP(
            _target(config, weights["shared.weight"].dtype),
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            tokenizer_data={"spiece_model": spiece},
            parameters=comfy.utils.calculate_parameters(weights),
        )
        states = clip.cond_stage_model.state_dict().items()
        built = {name: tuple(value.shape) for name, value in states if name.startswith(MODEL_PART)}
        _check_weights(bundle, {name.removeprefix(MODEL_PART): shape for name, shape in built.items()}, weights)
        clip.load_sd(weights)
    return clip


def _target(config: dict[str, Any], stored: torch.dtype) -> comfy.supported_models_base.ClipTarget:
    """Core's classes for Wan's text encoder with `config` for the sizes; weights are kept in `stored`."""

    class TextModel(sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                special_tokens={"end": END, "pad": PAD},
                model_class=T5,
                enable_attention_masks=True,
                zero_out_masked=True,
                model_options=model_options or {},
            )

    text_model: Any = TextModel

    class TextEncoder(sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(
                device=device,
                dtype=stored,
                name=CLIP_NAME,
                clip_model=text_model,
                model_options=model_options or {},
            )

        def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> tuple[Any, ...]:
            sections = token_weight_pairs[CLIP_NAME]
            longest = max(map(len, sections))
            cut = {CLIP_NAME: [within_limit(section) for section in sections]}
            device = comfy.model_management.text_encoder_device()
            with full_device_told("encoding the prompt", device, lambda: prompt_ways(device)):
                cond, pooled, *extra = super().encode_token_weights(cut)
            if longest > TEXT_TOKENS:
                extra = [{**(extra[0] if extra else {}), PROMPT_TOKENS: longest}]
            return cond, pooled, *extra

    class Tokens(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            data = tokenizer_data or {}
            super().__init__(
                data["spiece_model"],
                tokenizer_class=SENTENCE_PIECE,
                embedding_directory=embedding_directory,
                embedding_size=config["d_model"],
                embedding_key=CLIP_NAME,
                has_start_token=False,
                pad_with_end=False,
                pad_to_max_length=False,
                pad_token=PAD,
                min_length=TEXT_TOKENS,
                max_length=10**8,
                tokenizer_data=data,
            )

        def state_dict(self) -> dict[str, Tensor]:
            return {"spiece_model": self.tokenizer.serialize_model()}

    class Tokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                name=CLIP_NAME,
                tokenizer=Tokens,
            )

    return comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoder)


def prompt_ways(device: torch.device) -> list[str]:
    """What frees memory while a prompt is encoded; its length matters little, since the rest is padding."""
    elsewhere = [] if device.type == "cpu" else ["starting ComfyUI with --lowvram, which encodes on the processor"]
    return [*elsewhere, "a text encoder file in fp8, by Load CLIP", f"closing other programs that use {device}"]


def within_limit(tokens: Sequence[_Entry]) -> Sequence[_Entry]:
    """Tokens, the last one the end mark, without those before it that find no room."""
    return tokens if len(tokens) <= TEXT_TOKENS else [*tokens[: TEXT_TOKENS - 1], tokens[-1]]


def _check_weights(bundle: Bundle, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> None:
    """Core loads what fits and leaves the rest uninitialised; here everything must fit."""
    odd = [name for name in expected if name not in weights or tuple(weights[name].shape) != expected[name]]
    if odd:
        shown = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise CheckpointError(
            f"{bundle.text_encoder} does not fit {bundle.text_config or 'its own sizes'}: {len(odd)} of "
            f"{len(expected)} weights are missing or of another shape ({shown}). Download the folder again."
        )


def _read_tokenizer(bundle: Bundle, path: Path, vocabulary: int) -> Tensor:
    """The file's bytes. Raises CheckpointError when they are no tokenizer, or one of more pieces than `vocabulary`."""
    from sentencepiece import SentencePieceProcessor

    content = read_bytes(path, LARGEST_TOKENIZER, "a tokenizer")
    with readable(path, "a tokenizer"):
        pieces = SentencePieceProcessor(model_proto=content).get_piece_size()
    if pieces > vocabulary:
        raise CheckpointError(
            f"{path} has {pieces} pieces, {bundle.text_encoder} only {vocabulary}. They are of different models; "
            "download the folder again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
