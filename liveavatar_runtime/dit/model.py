"""CausalWanS2V: the causal diffusion transformer of Live Avatar.

One evaluation takes a block of latent frames at one denoising step to its velocity. What does not change with the
evaluation is made once and handed in: `VideoContext` for a video (text keys and values, time modulations),
`BlockContext` for a block (positions, voice). The evaluation itself is three calls, `embed` -> `run_layers` ->
`velocity`, of which `run_layers` takes any range of layers, so that a pipeline stage can own a part of the model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AvatarConfig
from .attention import AttentionKernel, KeysValues, project_keys_values, sdpa
from .audio import (
    AudioInjector,
    AudioTokens,
    CausalAudioEncoder,
    Injection,
    InjectionLayer,
    encode_block_audio,
    inject_audio,
    join_injections,
    prepare_injection,
)
from .block import PLAIN, BlockAttention, Pieces, SelfAttention, SinkAttention, TransformerLayer, run_layer
from .embeddings import TRAIN_STEPS, HeadModules, TimeModulation, embed_patches, embed_time, run_head, unpatchify
from .frame_packer import FramePacker, pack_motion
from .hooks import CLEAN, BeginRow, RowHooks
from .initial import embedding
from .kv_cache import CacheShape, CacheUse, KVCache, ReferencePosition, Sink
from .rope import (
    REFERENCE_FRAME,
    RopeFactors,
    RopeTables,
    join_factors,
    motion_rope,
    reference_frame,
    reference_rope,
    stack_factors,
)

SUBMODULES = (
    "patch_embedding",
    "cond_encoder",
    "trainable_cond_mask",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "blocks",
    "head",
    "casual_audio_encoder",
    "audio_injector",
    "frame_packer",
)
"""What a module tree must have to be adopted."""

# Rows of trainable_cond_mask: what kind of token it is.
NOISY, REFERENCE, MOTION = 0, 1, 2


GRAPHS_OF_A_PROCESS = 64
"""Kinds of models, sizes, dtypes and batches that may be compiled; after PyTorch's own 8 it goes on without a word and
without compiling."""


TextContext = Mapping[int, KeysValues]
"""Keys and values of an encoded prompt, each [1, text_len, heads, head_dim], by layer."""


@dataclass(frozen=True)
class VideoContext:
    """Made once a video: text keys/values of each layer in the range, modulations of every step and of t = 0.

    `timesteps`: what the model is told at each step, in 0..1000.
    """

    text: TextContext
    steps: tuple[TimeModulation, ...]
    clean: TimeModulation
    timesteps: tuple[float, ...]


@dataclass(frozen=True)
class BlockPlace:
    """A block: its number in the whole video, its latent frames, and the patch grid (rows, columns)."""

    block: int
    frames: int
    grid: tuple[int, int]

    @property
    def start_frame(self) -> int:
        return self.block * self.frames


@dataclass(frozen=True)
class BlockContext:
    """Made once a block: its place in the video, positions of its tokens, its voice for each injection layer.

    `tables`: positions of the whole video, of which `rope` are the block's.
    """

    place: BlockPlace
    tables: RopeTables
    rope: RopeFactors
    injections: dict[int, Injection]
    actor_masks: Tensor | None


@dataclass(frozen=True)
class Row:
    """One evaluation of a batch: a block at a step, the sink that is in force, and the distance to the reference.

    `text`: the prompt in force; None: the video's.
    """

    block: BlockContext
    step: int
    sink: Sink
    distance: int
    text: TextContext | None = None


class CausalWanS2V(nn.Module):
    """The transformer, with the original's state-dict keys.

    `operations` is a namespace of layer classes (Linear, Conv1d, Conv3d, LayerNorm, RMSNorm, Embedding), by default
    torch.nn. Latents are in the model's space, [16, frames, height / 8, width / 8].
    """

    def __init__(
        self,
        config: AvatarConfig,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionKernel = sdpa,
    ) -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.pieces: Pieces = PLAIN
        self.begin_row: BeginRow | None = None
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        dim, patch = config.dim, config.patch_size
        self.patch_embedding = operations.Conv3d(config.in_dim, dim, kernel_size=patch, stride=patch, **factory)
        self.cond_encoder = operations.Conv3d(config.cond_dim, dim, kernel_size=patch, stride=patch, **factory)
        self.trainable_cond_mask = embedding(operations, 3, dim, **factory)
        self.text_embedding = nn.Sequential(
            operations.Linear(config.text_dim, dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(dim, dim, **factory),
        )
        self.time_embedding = nn.Sequential(
            operations.Linear(config.freq_dim, dim, **factory), nn.SiLU(), operations.Linear(dim, dim, **factory)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(dim, 6 * dim, **factory))
        layers = (TransformerLayer(config, operations, **factory) for _ in range(config.num_layers))
        self.blocks = nn.ModuleList(layers)
        channels = config.out_dim * patch[0] * patch[1] * patch[2]
        self.head = HeadModules(dim, channels, config.eps, operations, **factory)
        self.casual_audio_encoder = CausalAudioEncoder(config, operations, **factory)
        self.audio_injector = AudioInjector(config, operations, **factory)
        self.frame_packer = FramePacker(config, operations, **factory)

    @classmethod
    def adopt(
        cls,
        tree: nn.Module,
        config: AvatarConfig,
        attention: AttentionKernel = sdpa,
        begin_row: BeginRow | None = None,
    ) -> "CausalWanS2V":
        """The transformer over another program's module tree that has the original's names.

        The modules are shared, so whatever their owner does with the weights (moving, patching, quantising) counts.
        `begin_row` gives the owner's hooks in the layers.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.config, model.attention, model.begin_row = config, attention, begin_row
        model.pieces = PLAIN
        for name in SUBMODULES:
            model.add_module(name, tree.get_submodule(name))
        return model

    def compile_layers(self, **options: Any) -> None:
        """Run the layers through `torch.compile` (its options) from now on: two graphs for all layers, blocks and
        steps, before and after self-attention."""
        self.pieces = PLAIN.compiled(**options)
        config: Any = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, GRAPHS_OF_A_PROCESS)

    @property
    def layers(self) -> range:
        return range(self.config.num_layers)

    def cache_shape(self, grid: tuple[int, int], steps: int, window_blocks: int, block_frames: int) -> CacheShape:
        """Sizes of the cache for a patch grid (rows, columns)."""
        return CacheShape.of(self.config, grid, steps, window_blocks, block_frames)

    def video_context(
        self, text: Tensor, timesteps: Sequence[float], layers: range, dtype: torch.dtype, device: torch.device
    ) -> VideoContext:
        """text [L, text_dim]: rows past the model's text_len are cut, missing rows are zeros (and attended to)."""
        times = self.embed_times((*timesteps, 0.0), device)
        keys_values = self.text_context(self.embed_text(text, dtype, device), layers)
        return VideoContext(keys_values, times[:-1], times[-1], tuple(timesteps))

    def embed_text(self, text: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """text [L, text_dim] -> [1, text_len, dim]."""
        padded = torch.zeros(1, self.config.text_len, self.config.text_dim, dtype=dtype, device=device)
        rows = min(len(text), self.config.text_len)
        padded[0, :rows] = text[:rows].to(padded)
        return self.text_embedding(padded)

    def text_context(self, embedded: Tensor, layers: range) -> TextContext:
        """Keys and values of the embedded text for each layer."""
        return {n: project_keys_values(self.blocks[n].cross_attn, embedded, self.config.head_dim) for n in layers}

    def embed_times(self, timesteps: Sequence[float], device: torch.device) -> tuple[TimeModulation, ...]:
        return tuple(embed_time(self, timestep, self.config.freq_dim, device) for timestep in timesteps)

    def embed_audio(self, audio: Tensor, dtype: torch.dtype, device: torch.device) -> AudioTokens:
        """Features of a block's video frames [actors, layers, audio_dim, frames] -> its voice."""
        moved = audio.to(device=device, dtype=dtype)
        return encode_block_audio(self.casual_audio_encoder, moved, self.config.num_audio_token)

    def rope_tables(self, grid: tuple[int, int], device: torch.device) -> RopeTables:
        """Positions of all tokens of a video."""
        return RopeTables(self.config.head_dim, grid, device)

    def block_context(
        self,
        place: BlockPlace,
        voice: AudioTokens,
        layers: range,
        actor_masks: Tensor | None = None,
        tables: RopeTables | None = None,
    ) -> BlockContext:
        """Positions of a block's tokens and its encoded voice; actor_masks [actors, frames, rows, columns] like it.

        `tables`: those of the video, where more than one block is evaluated.
        """
        head_dim, tables = self.config.head_dim, tables or self.rope_tables(place.grid, voice.glob.device)
        numbers = {n: i for i, n in enumerate(self.config.audio_inject_layers) if n in layers}
        return BlockContext(
            place=place,
            tables=tables,
            rope=tables.block(place.start_frame, place.frames),
            injections={n: prepare_injection(self.audio_injector, i, voice, head_dim) for n, i in numbers.items()},
            actor_masks=None if actor_masks is None else actor_masks.flatten(2).unsqueeze(-1),
        )

    def embed(self, latents: Tensor, pose: Tensor | None = None) -> Tensor:
        """Noisy latents [B, 16, F, h, w] (pose latents alike, none = zeros) -> hidden [B, tokens, dim]."""
        hidden = embed_patches(self.patch_embedding, latents)
        # Of a pose of zeros the encoder's bias is left, which the original adds too.
        pose_tokens = self.cond_encoder.bias.to(hidden) if pose is None else embed_patches(self.cond_encoder, pose)
        return hidden + pose_tokens + self._kind(NOISY, hidden)

    def embed_sink(self, reference: Tensor, motion: Tensor) -> Tensor:
        """Reference latent [B, 16, 1, h, w], motion latents [B, 16, 19, h, w] -> sink tokens [B, N, dim]."""
        return torch.cat([self.embed_reference(reference), self.embed_motion(motion)], dim=1)

    def embed_reference(self, reference: Tensor) -> Tensor:
        """The first tokens of a sink."""
        tokens = embed_patches(self.patch_embedding, reference)
        return tokens + self._kind(REFERENCE, tokens)

    def embed_motion(self, motion: Tensor) -> Tensor:
        """The others, the same for all sinks of a video."""
        packed = pack_motion(self.frame_packer, motion)
        return packed + self._kind(MOTION, packed)

    def _kind(self, row: int, like: Tensor) -> Tensor:
        # Called, not read: an adopted tree may hold this weight quantised.
        number = torch.full((1,), row, device=like.device)
        return self.trainable_cond_mask(number).to(like)

    def run_layers(self, hidden: Tensor, video: VideoContext, rows: Sequence[Row], cache: KVCache) -> Tensor:
        """The cache's range of layers on noisy tokens [rows, tokens, dim]; writes each block's slot of its step.

        Rows are of different steps. All of them go through a layer together, so its weights are read once.
        """
        head_dim, kernel = self.config.head_dim, self.attention
        uses = [_cache_use(row) for row in rows]
        cache.begin(uses)
        rope = stack_factors([row.block.rope for row in rows])
        modulation = _together([video.steps[row.step].layers for row in rows])
        outside = self._outside(video, (video.timesteps[row.step] / TRAIN_STEPS for row in rows))
        texts = [row.text or video.text for row in rows]
        for number in cache.layers:
            attention = BlockAttention(number, head_dim, kernel, rope, cache, uses, **outside)
            hidden = self._layer(number)(hidden, modulation, _text_of(texts, number), attention)
            hidden = self._inject(number, hidden, [row.block for row in rows])
        return hidden

    def _inject(self, number: int, hidden: Tensor, blocks: Sequence[BlockContext]) -> Tensor:
        """The voice after layer `number`, if it is one of the injection layers."""
        if number not in blocks[0].injections:
            return hidden
        index = self.config.audio_inject_layers.index(number)
        injection = join_injections([block.injections[number] for block in blocks])
        layer = InjectionLayer(self.audio_injector, index, self.config.head_dim, self.attention)
        return inject_audio(layer, hidden, injection, blocks[0].place.frames, blocks[0].actor_masks)

    def run_sink_layers(
        self, hidden: Tensor, video: VideoContext, grid: tuple[int, int], cache: KVCache, sink: Sink
    ) -> Tensor:
        """The cache's range of layers on sink tokens, which fills `sink` for these layers and all steps."""
        head_dim = self.config.head_dim
        rope = join_factors(reference_rope(head_dim, grid, REFERENCE_FRAME), motion_rope(head_dim, grid))
        rope = rope.to(hidden.device)
        outside = self._outside(video, (CLEAN for _ in hidden))
        for number in cache.layers:
            attention = SinkAttention(number, head_dim, self.attention, rope, cache, sink, **outside)
            hidden = self._layer(number)(hidden, video.clean.layers, video.text[number], attention)
        return hidden

    def _outside(self, video: VideoContext, sigmas: Iterable[float]) -> dict[str, Any]:
        """What the layers are made of, and the hooks between; rows of these noise levels are begun."""
        hooks: tuple[RowHooks, ...] | None = None
        if self.begin_row is not None:
            schedule = [timestep / TRAIN_STEPS for timestep in (*video.timesteps, 0.0)]
            hooks = tuple(self.begin_row(sigma, schedule) for sigma in sigmas)
        return {"pieces": self.pieces, "hooks": hooks}

    def _layer(self, number: int) -> Callable[[Tensor, Tensor, KeysValues, SelfAttention], Tensor]:
        """What runs one layer: (hidden, modulation, text, self-attention) -> hidden."""
        layer = self.blocks[number]
        # A layer of an adopted module tree has a forward of its own; ours must be called as a module, for hooks.
        return layer if isinstance(layer, TransformerLayer) else partial(run_layer, layer)

    def velocity(self, hidden: Tensor, video: VideoContext, rows: Sequence[Row]) -> Tensor:
        """hidden [rows, tokens, dim] after the last layer -> velocity, float32 [rows, 16, frames, h, w]."""
        tokens = run_head(self.head, hidden, _together([video.steps[row.step].head for row in rows]))
        place = rows[0].block.place
        return unpatchify(tokens, place.frames, place.grid, self.config.patch_size)


def _text_of(texts: Sequence[TextContext], number: int) -> KeysValues:
    """What layer `number` attends to of the prompts of a batch's rows; where they share one, it is there once."""
    if all(text is texts[0] for text in texts):
        return texts[0][number]
    parts = [text[number] for text in texts]
    return KeysValues(torch.cat([part.k for part in parts]), torch.cat([part.v for part in parts]))


def _cache_use(row: Row) -> CacheUse:
    place = row.block.place
    frame = reference_frame(place.start_frame, row.distance)
    return CacheUse(row.step, place.block, row.sink, ReferencePosition(frame, row.block.tables.frame(frame)))


def _together(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
