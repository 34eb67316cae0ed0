"""Key/value cache of self-attention: one buffer for each layer and step, `[sink | ring]` along the tokens.

Every denoising step has its own ring, because its keys come from inputs of its own noise level. The sink (reference
picture and packed motion) stands in front of the ring, so that attention reads one contiguous slice and nothing is
concatenated. Cached keys are rotated, except a second copy of the reference keys: the reference moves along with the
video, so its keys are turned anew from the unrotated copy whenever its position changes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import AvatarConfig
from .attention import KeysValues
from .frame_packer import packed_token_count
from .rope import RopeFactors, apply_rope


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

    def valid_tokens(self, block: int) -> int:
        """Tokens that block number `block` attends to: the sink and what of the ring has been written."""
        return self.sink_tokens + min(block + 1, self.window_blocks) * self.block_tokens

    def bytes(self, layers: int, element_size: int) -> int:
        """Size of the cache of so many layers, the unrotated reference keys included."""
        tokens = 2 * self.steps * self.tokens + self.reference_tokens
        return layers * tokens * self.heads * self.head_dim * element_size


class KVCache:
    """Caches of a range of layers, for every step.

    `keys[layer]`, `values[layer]`: [steps, sink + ring tokens, heads, head_dim]; `reference_keys[layer]`:
    [1, reference tokens, heads, head_dim], not rotated. Layers are counted as in the whole model.
    """

    def __init__(self, shape: CacheShape, layers: range, dtype: torch.dtype, device: torch.device | str) -> None:
        self.shape = shape
        self.layers = layers
        size = (shape.steps, shape.tokens, shape.heads, shape.head_dim)
        reference_size = (1, shape.reference_tokens, shape.heads, shape.head_dim)
        self.keys = {layer: torch.zeros(size, dtype=dtype, device=device) for layer in layers}
        self.values = {layer: torch.zeros(size, dtype=dtype, device=device) for layer in layers}
        self.reference_keys = {layer: torch.zeros(reference_size, dtype=dtype, device=device) for layer in layers}
        self._placed_frame: list[int | None] = [None] * shape.steps

    def store_sink(self, layer: int, unrotated: KeysValues, rotated_keys: Tensor) -> None:
        """Keep the sink's keys and values of one layer, [1, sink tokens, heads, head_dim] each, for all steps."""
        shape = self.shape
        self.reference_keys[layer].copy_(unrotated.k[:, : shape.reference_tokens])
        self.keys[layer][:, : shape.sink_tokens] = rotated_keys
        self.values[layer][:, : shape.sink_tokens] = unrotated.v
        self._placed_frame = [None] * shape.steps

    def reference_is_at(self, step: int, frame: int) -> bool:
        """Whether `place_reference` would change nothing."""
        return self._placed_frame[step] == frame

    def place_reference(self, step: int, frame: int, factors: RopeFactors) -> None:
        """Turn the reference keys of every layer to RoPE frame `frame` for one step."""
        for layer in self.layers:
            self.keys[layer][step, : self.shape.reference_tokens] = apply_rope(self.reference_keys[layer][0], factors)
        self._placed_frame[step] = frame

    def write_block(self, layer: int, step: int, block: int, own: KeysValues) -> KeysValues:
        """Write a block's rotated keys and values into its slot; returns views of all that it attends to."""
        slot, valid = self.shape.slot(block), self.shape.valid_tokens(block)
        keys, values = self.keys[layer], self.values[layer]
        keys[step, slot], values[step, slot] = own.k[0], own.v[0]
        return KeysValues(keys[step : step + 1, :valid], values[step : step + 1, :valid])
