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
    where no text of any sequence changes; pose [B, 16, 3 N, h, w], zeros for a sequence that nothing drives, None where
    nothing drives any."""

    text: list[Tensor]
    reference: Tensor
    motion: Tensor
    audio: Tensor
    first_blocks: list[int]
    later: list[LaterText | None] | None = None
    pose: Tensor | None = None

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
class Sinks:
    """What `TrainedSink` kept for a layer, for one block or for each: [B, 1 or N, tokens, heads, head_dim]."""

    keys: Tensor
    rotated: Tensor
    values: Tensor

    @classmethod
    def of(cls, kept: KeysValues, rotated: Tensor) -> "Sinks":
        return cls(kept.k[:, None], rotated[:, None], kept.v[:, None])

    def by_block(self, blocks: int) -> "Sinks":
        return Sinks(*(x.expand(-1, blocks, -1, -1, -1) for x in (self.keys, self.rotated, self.values)))


def _is_later(later: list[LaterText | None], blocks: int) -> Tensor:
    """bool [B, N]: which blocks have the later text."""
    begins = torch.tensor([blocks if one is None else one.block for one in later])
    return torch.arange(blocks)[None] >= begins[:, None]


def _chosen(first: dict[int, Sinks], last: dict[int, Sinks], is_later: Tensor) -> dict[int, Sinks]:
    """The sinks of each block."""
    choice = is_later[:, :, None, None, None]

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(choice, b, a)

    return {
        number: Sinks(pick(one.keys, other.keys), pick(one.rotated, other.rotated), pick(one.values, other.values))
        for (number, one), other in zip(first.items(), last.values(), strict=True)
    }


@dataclass(frozen=True)
class ParallelBlocks(SelfAttention):
    """All blocks of a sequence at once. `reference`: the factors of the reference's tokens for each block
    [B, N, tokens, 1, head_dim / 2]."""

    sink: Sinks
    reference: RopeFactors

    def attend(self, asked: Asked) -> Tensor:
        batch, blocks, tokens = self.reference.cos.shape[:3]
        queries, own = asked.queries, asked.own
        sink = self.sink.by_block(blocks)
        moved, still = apply_rope(sink.keys[:, :, :tokens], self.reference), sink.rotated[:, :, tokens:]
        k = torch.cat([moved, still, _windows(asked.rotated_keys.to(own.k.dtype), blocks)], dim=2)
        v = torch.cat([sink.values, _windows(own.v, blocks)], dim=2)
        mask = _visible(blocks, sink.keys.shape[2], queries.shape[1] // blocks).to(queries.device)
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


@dataclass(frozen=True)
class Prompted:
    """Embedded prompts [B, tokens, dim], and the attention to them."""

    rows: Tensor
    kernel: PaddedText

    def contexts(self, model: CausalWanS2V) -> dict[int, KeysValues]:
        """By layer."""
        head_dim = model.config.head_dim
        return {n: project_keys_values(model.blocks[n].cross_attn, self.rows, head_dim) for n in model.layers}


def _by_block(first: Prompted, last: Prompted, is_later: Tensor, tokens: int) -> Prompted:
    """Both prompts in a row, of which a block sees one; is_later bool [B, N], N blocks of so many tokens."""
    later = is_later.repeat_interleave(tokens, dim=1)[:, None, :, None]
    seen = (
        first.kernel.bias.masked_fill(later, -math.inf),
        last.kernel.bias.masked_fill(~later, -math.inf),
    )
    return Prompted(torch.cat([first.rows, last.rows], dim=1), PaddedText(torch.cat(seen, dim=-1)))


def velocities(model: CausalWanS2V, latents: Tensor, timesteps: list[float], given: Sequences) -> Tensor:
    """Noisy latents [B, 16, 3 N, h, w], each sequence at one time step -> velocities of that shape."""
    config, head_dim, blocks = model.config, model.config.head_dim, given.blocks
    grid = (latents.shape[-2] // 2, latents.shape[-1] // 2)
    times = [embed_time(model, t, config.freq_dim, latents.device) for t in timesteps]
    modulation = torch.cat([time.layers for time in times])
    prompted = Prompted(*_text(model, given.text))
    sink = _run_sink(model, given, prompted, grid)
    if given.later is not None:
        texts = [own if later is None else later.text for own, later in zip(given.text, given.later, strict=True)]
        last, is_later = Prompted(*_text(model, texts)), _is_later(given.later, blocks)
        # With another prompt comes another sink.
        sink = _chosen(sink, _run_sink(model, given, last, grid), is_later)
        prompted = _by_block(prompted, last, is_later, LATENT_FRAMES_PER_BLOCK * grid[0] * grid[1])
    text, kernel = prompted.contexts(model), prompted.kernel
    voice = encode_block_audio(model.casual_audio_encoder, given.audio.flatten(0, 1), config.num_audio_token)
    starts = [first * LATENT_FRAMES_PER_BLOCK for first in given.first_blocks]
    rope = _stack([block_rope(head_dim, grid, start, LATENT_FRAMES_PER_BLOCK * blocks) for start in starts])
    reference = _stack([_reference_factors(head_dim, grid, start, blocks) for start in starts])
    hidden = model.embed(latents, given.pose)
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


def _run_sink(model: CausalWanS2V, given: Sequences, prompted: Prompted, grid: tuple[int, int]) -> dict[int, Sinks]:
    head_dim = model.config.head_dim
    rope = join_factors(reference_rope(head_dim, grid, REFERENCE_FRAME), motion_rope(head_dim, grid))
    clean = embed_time(model, 0.0, model.config.freq_dim, given.reference.device).layers
    kept: dict[int, tuple[KeysValues, Tensor]] = {}
    hidden = model.embed_sink(given.reference, given.motion)
    text = prompted.contexts(model)
    for number in model.layers:
        attend = TrainedSink(number, head_dim, prompted.kernel, rope, kept)
        hidden = model.blocks[number](hidden, clean, text[number], attend)
    return {number: Sinks.of(*one) for number, one in kept.items()}


def _reference_factors(head_dim: int, grid: tuple[int, int], start: int, blocks: int) -> RopeFactors:
    frames = (reference_frame(start + LATENT_FRAMES_PER_BLOCK * n, RELATIVE_DISTANCE) for n in range(blocks))
    return _stack([reference_rope(head_dim, grid, frame) for frame in frames])
