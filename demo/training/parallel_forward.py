"""The transformer on whole sequences at once, for training: the same numbers as the block loop, with gradients.

Every block of a sequence is at the same step, as the ring caches hold it, and sees the sink, the blocks before it
within the window, and itself. Shapes: B sequences of N blocks of 3 latent frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar_runtime.dit.attention import (
    KeysValues,
    attention,
    project_keys_values,
    sdpa,
)
from liveavatar_runtime.dit.audio import InjectionLayer, encode_block_audio, inject_audio, prepare_injection
from liveavatar_runtime.dit.block import Asked, SelfAttention
from liveavatar_runtime.dit.embeddings import embed_time, run_head, unpatchify
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.rope import (
    REFERENCE_FRAME,
    RopeFactors,
    apply_rope,
    block_rope,
    join_factors,
    motion_rope,
    reference_frame,
    reference_rope,
)
from liveavatar_runtime.duration import LATENT_FRAMES_PER_BLOCK

RELATIVE_DISTANCE = 17
WINDOW_BLOCKS = 4


@dataclass(frozen=True)
class LaterText:
    """A text [tokens, text_dim] that replaces a sequence's own from its block number `block` on."""

    block: int
    text: Tensor


@dataclass(frozen=True)
class Sequences:
    """Conditions of B sequences: text [B][tokens, text_dim] without padding, reference [B, 16, 1, h, w], motion
    [B, 16, 19, h, w], audio [B, N, layers, audio_dim, 12], number of the first block of each in its video. later: None
    where no text of any sequence changes; sinks keep the first one."""

    text: list[Tensor]
    reference: Tensor
    motion: Tensor
    audio: Tensor
    first_blocks: list[int]
    later: list[LaterText | None] | None = None

    @property
    def blocks(self) -> int:
        return self.audio.shape[1]


@dataclass(frozen=True)
class PaddedText:
    """Attention to short prompts as if they were padded to the model's length: one padding row counts for all."""

    bias: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)


@dataclass(frozen=True)
class TrainedSink(SelfAttention):
    """Sink tokens attend to each other; what they leave for the blocks goes into `kept`."""

    kept: dict[int, tuple[KeysValues, Tensor]]

    def attend(self, asked: Asked) -> Tensor:
        rotated = asked.rotated_keys.to(asked.own.k.dtype)
        self.kept[self.layer] = (asked.own, rotated)
        return attention(asked.queries, KeysValues(rotated, asked.own.v), sdpa)


@dataclass(frozen=True)
class ParallelBlocks(SelfAttention):
    """All blocks of a sequence at once. `sink` is what `TrainedSink` kept for this layer, `reference` the factors of
    the reference's tokens for each block [B, N, tokens, 1, head_dim / 2]."""

    sink: tuple[KeysValues, Tensor]
    reference: RopeFactors

    def attend(self, asked: Asked) -> Tensor:
        batch, blocks, tokens = self.reference.cos.shape[:3]
        queries, own = asked.queries, asked.own
        unrotated, rotated = self.sink
        moved = apply_rope(unrotated.k[:, None, :tokens].expand(-1, blocks, -1, -1, -1), self.reference)
        still = rotated[:, None, tokens:].expand(-1, blocks, -1, -1, -1)
        values = unrotated.v[:, None].expand(-1, blocks, -1, -1, -1)
        k = torch.cat([moved, still, _windows(asked.rotated_keys.to(own.k.dtype), blocks)], dim=2)
        v = torch.cat([values, _windows(own.v, blocks)], dim=2)
        mask = _visible(blocks, unrotated.k.shape[1], queries.shape[1] // blocks).to(queries.device)
        out = F.scaled_dot_product_attention(
            queries.unflatten(1, (blocks, -1)).flatten(0, 1).transpose(1, 2),
            k.flatten(0, 1).transpose(1, 2),
            v.flatten(0, 1).transpose(1, 2),
            attn_mask=mask.repeat(batch, 1)[:, None, None],
        )
        return out.transpose(1, 2).unflatten(0, (batch, blocks)).flatten(1, 2).flatten(2)


def _windows(x: Tensor, blocks: int) -> Tensor:
    """[B, N * tokens, heads, d] -> what each block sees of it, [B, N, window * tokens, heads, d], zeros in front."""
    by_block = x.unflatten(1, (blocks, -1))
    before = by_block.new_zeros(x.shape[0], WINDOW_BLOCKS - 1, *by_block.shape[2:])
    padded = torch.cat([before, by_block], dim=1)
    return torch.cat([padded[:, i : i + blocks] for i in range(WINDOW_BLOCKS)], dim=2)


def _visible(blocks: int, sink: int, tokens: int) -> Tensor:
    """bool [N, sink + window * tokens]: what exists for each block."""
    existing = [[True] * sink + [n + i >= WINDOW_BLOCKS - 1 for i in range(WINDOW_BLOCKS) for _ in range(tokens)]
                for n in range(blocks)]  # fmt: skip
    return torch.tensor(existing)


def _stack(factors: Sequence[RopeFactors]) -> RopeFactors:
    return RopeFactors(torch.stack([f.cos for f in factors]), torch.stack([f.sin for f in factors]))


def _text(model: CausalWanS2V, prompts: list[Tensor]) -> tuple[Tensor, PaddedText]:
    """Embedded prompts [B, longest + 1, dim], of which the last row is the padding, and the attention to them."""
    longest = max(len(prompt) for prompt in prompts)
    rows = prompts[0].new_zeros(len(prompts), longest + 1, prompts[0].shape[1])
    bias = torch.full((len(prompts), 1, 1, longest + 1), -math.inf)
    for number, prompt in enumerate(prompts):
        rows[number, : len(prompt)] = prompt
        bias[number, ..., : len(prompt)] = 0
        bias[number, ..., longest] = math.log(model.config.text_len - len(prompt))
    return model.text_embedding(rows), PaddedText(bias)


def _texts(model: CausalWanS2V, given: Sequences, tokens: int) -> tuple[Tensor, PaddedText, PaddedText]:
    """Embedded prompts, what sinks see of them, and what blocks of so many tokens do."""
    if given.later is None:
        embedded, kernel = _text(model, given.text)
        return embedded, kernel, kernel
    last = [text if later is None else later.text for text, later in zip(given.text, given.later, strict=True)]
    first_rows, first = _text(model, given.text)
    last_rows, second = _text(model, last)
    block = torch.arange(given.blocks).repeat_interleave(tokens)
    begins = torch.tensor([given.blocks if later is None else later.block for later in given.later])
    is_later = (block[None] >= begins[:, None])[:, None, :, None]
    seen = [first.bias.masked_fill(is_later, -math.inf), second.bias.masked_fill(~is_later, -math.inf)]
    hidden = torch.full_like(second.bias, -math.inf)
    rows = torch.cat([first_rows, last_rows], dim=1)
    return rows, PaddedText(torch.cat([first.bias, hidden], dim=-1)), PaddedText(torch.cat(seen, dim=-1))


def velocities(model: CausalWanS2V, latents: Tensor, timesteps: list[float], given: Sequences) -> Tensor:
    """Noisy latents [B, 16, 3 N, h, w], each sequence at one time step -> velocities of that shape."""
    config, head_dim, blocks = model.config, model.config.head_dim, given.blocks
    grid = (latents.shape[-2] // 2, latents.shape[-1] // 2)
    times = [embed_time(model, t, config.freq_dim, latents.device) for t in timesteps]
    modulation = torch.cat([time.layers for time in times])
    embedded, of_sink, kernel = _texts(model, given, LATENT_FRAMES_PER_BLOCK * grid[0] * grid[1])
    text = {n: project_keys_values(model.blocks[n].cross_attn, embedded, head_dim) for n in model.layers}
    sink = _run_sink(model, given, text, of_sink, grid)
    voice = encode_block_audio(model.casual_audio_encoder, given.audio.flatten(0, 1), config.num_audio_token)
    starts = [first * LATENT_FRAMES_PER_BLOCK for first in given.first_blocks]
    rope = _stack([block_rope(head_dim, grid, start, LATENT_FRAMES_PER_BLOCK * blocks) for start in starts])
    reference = _stack([_reference_factors(head_dim, grid, start, blocks) for start in starts])
    hidden = model.embed(latents)
    for number in model.layers:
        self_attention = ParallelBlocks(number, head_dim, kernel, rope, sink[number], reference)
        hidden = model.blocks[number](hidden, modulation, text[number], self_attention)
        if number in config.audio_inject_layers:
            index = config.audio_inject_layers.index(number)
            injection = prepare_injection(model.audio_injector, index, voice, head_dim)
            frames, shape = len(injection.shift), hidden.shape
            joined = hidden.reshape(1, -1, shape[-1])
            layer = InjectionLayer(model.audio_injector, index, head_dim, sdpa)
            joined = inject_audio(layer, joined, injection, frames, None)
            hidden = joined.reshape(shape)
    tokens = run_head(model.head, hidden, torch.cat([time.head for time in times]))
    return unpatchify(tokens, LATENT_FRAMES_PER_BLOCK * blocks, grid, config.patch_size)


def _run_sink(
    model: CausalWanS2V, given: Sequences, text: dict[int, KeysValues], kernel: PaddedText, grid: tuple[int, int]
) -> dict[int, tuple[KeysValues, Tensor]]:
    head_dim = model.config.head_dim
    rope = join_factors(reference_rope(head_dim, grid, REFERENCE_FRAME), motion_rope(head_dim, grid))
    clean = embed_time(model, 0.0, model.config.freq_dim, given.reference.device).layers
    kept: dict[int, tuple[KeysValues, Tensor]] = {}
    hidden = model.embed_sink(given.reference, given.motion)
    for number in model.layers:
        hidden = model.blocks[number](hidden, clean, text[number], TrainedSink(number, head_dim, kernel, rope, kept))
    return kept


def _reference_factors(head_dim: int, grid: tuple[int, int], start: int, blocks: int) -> RopeFactors:
    frames = (reference_frame(start + LATENT_FRAMES_PER_BLOCK * n, RELATIVE_DISTANCE) for n in range(blocks))
    return _stack([reference_rope(head_dim, grid, frame) for frame in frames])
