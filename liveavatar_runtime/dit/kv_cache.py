"""Key/value cache of self-attention: one buffer for each layer and step, `[sink | ring]` along the tokens.

Every denoising step has its own ring, because its keys come from inputs of its own noise level. The sink (reference
picture and packed motion) stands in front of the ring, so that attention reads one contiguous slice and nothing is
concatenated. Cached keys are rotated. The reference moves along with the video, so whenever its position changes its
keys are turned anew: only their temporal channels, and from the unrotated ones, which the `Sink` holds.

Blocks can be under way at several steps at once, so a new sink comes into force step by step: `begin` puts it in place
when the first block that uses it reaches the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..config import AvatarConfig
from ..errors import InputError
from .attention import KeysValues
from .frame_packer import packed_token_count
from .rope import RopeFactors, temporal_channels, turn


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Sizes of a cache: tokens of a block, of the reference, of the whole sink; window in blocks."""

    steps: int
    window_blocks: int
    block_tokens: int
    reference_tokens: int
    motion_tokens: int
    heads: int
    head_dim: int

    @classmethod
    def of(
        cls, config: AvatarConfig, grid: tuple[int, int], steps: int, window_blocks: int, block_frames: int
    ) -> "CacheShape":
        """Sizes for a model and a patch grid (rows, columns); `block_frames` latent frames a block."""
        rows, columns = grid
        return cls(
            steps=steps,
            window_blocks=window_blocks,
            block_tokens=block_frames * rows * columns,
            reference_tokens=rows * columns,
            motion_tokens=packed_token_count(grid),
            heads=config.num_heads,
            head_dim=config.head_dim,
        )

    @property
    def sink_tokens(self) -> int:
        return self.reference_tokens + self.motion_tokens

    @property
    def tokens(self) -> int:
        return self.sink_tokens + self.window_blocks * self.block_tokens

    def slot(self, block: int) -> slice:
        """Token positions that block number `block` (counted over the whole video) writes."""
        start = self.sink_tokens + (block % self.window_blocks) * self.block_tokens
        return slice(start, start + self.block_tokens)

    def valid_tokens(self, block: int, first_block: int = 0) -> int:
        """Tokens that block number `block` attends to: the sink and what of the ring has been written.

        `first_block`: the block that the ring began with, a multiple of `window_blocks`.
        """
        return self.sink_tokens + min(block - first_block + 1, self.window_blocks) * self.block_tokens

    def kept_blocks(self, block: int, first_block: int = 0) -> range:
        """Blocks of the ring that block `block + 1` and later ones read: it overwrites the oldest one first."""
        return range(max(first_block, block - self.window_blocks + 2), block + 1)

    def warm_up_start(self, block: int) -> int:
        """Where to begin when block `block` shall find a full ring: at least one ring before, at the first slot."""
        return max(0, (block - self.window_blocks) // self.window_blocks * self.window_blocks)

    @property
    def ring_tokens(self) -> int:
        return self.window_blocks * self.block_tokens

    def values(self, tokens: int) -> int:
        """Numbers that the keys and values of so many tokens are, in one layer."""
        return 2 * tokens * self.heads * self.head_dim

    @property
    def temporal_channels(self) -> int:
        """Of a head."""
        return temporal_channels(self.head_dim)

    def sink_keys(self, unrotated: Tensor, rotated: Tensor) -> Tensor:
        """Both [1, sink tokens, heads, head_dim] -> keys of a `Sink`, a copy."""
        keys, reference, channels = rotated[0].clone(), slice(self.reference_tokens), slice(self.temporal_channels)
        keys[reference, :, channels] = unrotated[0, reference, :, channels]
        return keys


@dataclass(eq=False)
class Sink:
    """Keys and values of the sink in the layers of one cache, for all its steps.

    `keys[layer]`, `values[layer]` [sink tokens, heads, head_dim]; the keys are rotated, but for the temporal channels
    of the reference's. A cache that holds a copy for every step empties both then, and keeps in `reference_keys`
    [layers, reference tokens, heads, temporal channels] what it turns again and again.
    """

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    reference_keys: Tensor | None = None


@dataclass(frozen=True)
class ReferencePosition:
    """RoPE frame of the reference picture and the factors that turn its keys' temporal channels there."""

    frame: int
    factors: RopeFactors


@dataclass(frozen=True)
class CacheUse:
    """What one evaluation wants of the cache: its step, its block, the sink in force and where the reference is."""

    step: int
    block: int
    sink: Sink
    reference: ReferencePosition


class KVCache(Protocol):
    """Caches of a range of layers and of steps. Layers and steps are counted as in the whole model and schedule."""

    @property
    def shape(self) -> CacheShape: ...

    @property
    def layers(self) -> range: ...

    @property
    def steps(self) -> range: ...

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values, those of sinks that wait beside them not included."""
        ...

    def keep_sink(self, sink: Sink, layer: int, unrotated: KeysValues, rotated_keys: Tensor) -> None:
        """Put one layer's sink, [1, sink tokens, heads, head_dim] each, where this cache wants it."""
        ...

    def begin(self, uses: Sequence[CacheUse]) -> None:
        """Before evaluations that go through the layers together: in each layer, `attend` follows in this order."""
        ...

    def attend(self, layer: int, use: CacheUse, own: KeysValues) -> KeysValues:
        """Keep a block's rotated keys and values [1, tokens, heads, head_dim]; returns all that it attends to.

        They are rounded to the cache's dtype, which the keys need not be of.
        The returned tensors are valid until the next call.
        """
        ...

    def ring(self, step: int, block: int) -> dict[str, Tensor]:
        """Copies on the CPU of what blocks after `block` need of one step's ring.

        `step.<s>.layer.<l>.keys` and `.values`: [blocks * tokens, heads, head_dim], oldest block first. The block after
        `block` may have begun this step already, no later one.
        """
        ...

    def load_ring(self, step: int, block: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue after block `block` from what `ring` gave. Raises InputError when it does not fit."""
        ...

    def start_at(self, block: int) -> None:
        """Begin with an empty ring at block `block`, a multiple of `window_blocks`."""
        ...


def ring_name(step: int, layer: int, kind: str) -> str:
    return f"step.{step}.layer.{layer}.{kind}"


def check_ring(name: str, tensors: Mapping[str, Tensor], shape: CacheShape, blocks: range, width: int) -> Tensor:
    """The tensor [blocks * tokens, heads, width] of that name. Raises InputError unless it holds these blocks."""
    expected = (len(blocks) * shape.block_tokens, shape.heads, width)
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != expected:
        given = "missing" if tensor is None else tuple(tensor.shape)
        raise InputError(f"the saved ring is of another plan: {name} is {given}, expected {expected}")
    return tensor


TURNED_AT_ONCE = 16
"""Layers whose reference keys are turned together: as much memory as an evaluation needs later."""


class ResidentCache:
    """KVCache on the device of the model and in its dtype: attention reads the cache itself.

    `keys[layer]`, `values[layer]`: [steps, sink + ring tokens, heads, head_dim].
    """

    def __init__(
        self,
        shape: CacheShape,
        layers: range,
        dtype: torch.dtype,
        device: torch.device | str,
        steps: range | None = None,
    ) -> None:
        self.shape, self.layers = shape, layers
        self.steps = range(shape.steps) if steps is None else steps
        size = (len(self.steps), shape.tokens, shape.heads, shape.head_dim)
        self.keys = {layer: torch.zeros(size, dtype=dtype, device=device) for layer in layers}
        self.values = {layer: torch.zeros(size, dtype=dtype, device=device) for layer in layers}
        self._first_block = 0
        self._placed: dict[int, tuple[Sink, int]] = {}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for own in (self.keys, self.values) for tensor in own.values())

    def keep_sink(self, sink: Sink, layer: int, unrotated: KeysValues, rotated_keys: Tensor) -> None:
        keys = sink.keys[layer] = self.shape.sink_keys(unrotated.k, rotated_keys)
        sink.values[layer] = unrotated.v[0].clone()
        turned = keys[: self.shape.reference_tokens, :, : self.shape.temporal_channels]
        if sink.reference_keys is None:
            sink.reference_keys = turned.new_empty(len(self.layers), *turned.shape)
        sink.reference_keys[self.layers.index(layer)] = turned

    def begin(self, uses: Sequence[CacheUse]) -> None:
        for use in uses:
            sink, frame = self._placed.get(use.step, (None, None))
            if sink is not use.sink:
                self._place(use)
            if sink is not use.sink or frame != use.reference.frame:
                self._place_reference(use)
            self._placed[use.step] = (use.sink, use.reference.frame)
            if sink is not use.sink:
                self._forget_copied(use.sink)

    def _place(self, use: CacheUse) -> None:
        row, tokens = self.steps.index(use.step), self.shape.sink_tokens
        for layer in self.layers:
            self.keys[layer][row, :tokens] = use.sink.keys[layer]
            self.values[layer][row, :tokens] = use.sink.values[layer]

    def _place_reference(self, use: CacheUse) -> None:
        row, tokens, channels = self.steps.index(use.step), self.shape.reference_tokens, self.shape.temporal_channels
        assert use.sink.reference_keys is not None
        for start in range(0, len(self.layers), TURNED_AT_ONCE):
            together = slice(start, start + TURNED_AT_ONCE)
            turned = turn(use.sink.reference_keys[together], use.reference.factors)
            for layer, keys in zip(self.layers[together], turned, strict=True):
                self.keys[layer][row, :tokens, :, :channels] = keys

    def _forget_copied(self, sink: Sink) -> None:
        """Once every step has its copy only the reference keys are needed: they are turned again and again."""
        placed = self._placed
        if all(step in placed and placed[step][0] is sink for step in self.steps):
            sink.keys.clear()
            sink.values.clear()

    def attend(self, layer: int, use: CacheUse, own: KeysValues) -> KeysValues:
        slot = self.shape.slot(use.block)
        valid = self.shape.valid_tokens(use.block, self._first_block)
        keys, values, row = self.keys[layer], self.values[layer], self.steps.index(use.step)
        keys[row, slot], values[row, slot] = own.k[0], own.v[0]
        return KeysValues(keys[row : row + 1, :valid], values[row : row + 1, :valid])

    def ring(self, step: int, block: int) -> dict[str, Tensor]:
        row, slots = self.steps.index(step), self._slots(block)
        return {
            ring_name(step, layer, kind): torch.cat([tensors[layer][row, slot] for slot in slots]).cpu()
            for kind, tensors in (("keys", self.keys), ("values", self.values))
            for layer in self.layers
            if slots
        }

    def load_ring(self, step: int, block: int, tensors: Mapping[str, Tensor]) -> None:
        row, blocks = self.steps.index(step), self.shape.kept_blocks(block, self._first_block)
        for kind, own in (("keys", self.keys), ("values", self.values)):
            for layer in self.layers if blocks else ():
                saved = check_ring(ring_name(step, layer, kind), tensors, self.shape, blocks, self.shape.head_dim)
                for slot, part in zip(self._slots(block), saved.split(self.shape.block_tokens), strict=True):
                    own[layer][row, slot] = part.to(own[layer])

    def _slots(self, block: int) -> list[slice]:
        return [self.shape.slot(kept) for kept in self.shape.kept_blocks(block, self._first_block)]

    def start_at(self, block: int) -> None:
        self._first_block = block
