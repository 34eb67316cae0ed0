"""Caches that attention reads in place while two steps share one sink: `[ring of a step | sink | ring of the next]`.

A `ResidentCache` has a sink for every step, which is 5 GiB more at 688x368. Here the ring of an even step lies before
the sink, and is filled from it outwards, that of an odd one after it; both read one contiguous slice. Attention sums
over the keys in another order then, which is a matter of rounding. It serves blocks one after the other: all steps of
a block see the same sink, and a new one is written where the old one was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import KeysValues
from .kv_cache import TURNED_AT_ONCE, CacheShape, CacheUse, Sink, check_ring, ring_name
from .rope import RopeFactors, turn


@dataclass(frozen=True)
class StepPlace:
    """Where a step is: the number of its buffer, the sink's first token there, and whether its ring lies before it."""

    buffer: int
    sink: int
    before: bool

    def slot(self, shape: CacheShape, block: int) -> slice:
        number = block % shape.window_blocks
        if self.before:
            stop = self.sink - number * shape.block_tokens
            return slice(stop - shape.block_tokens, stop)
        start = self.sink + shape.sink_tokens + number * shape.block_tokens
        return slice(start, start + shape.block_tokens)

    def attended(self, shape: CacheShape, valid: int) -> slice:
        """Sink and what of the ring has been written: `valid` tokens together."""
        if self.before:
            stop = self.sink + shape.sink_tokens
            return slice(stop - valid, stop)
        return slice(self.sink, self.sink + valid)


def step_places(shape: CacheShape, steps: Sequence[int]) -> dict[int, StepPlace]:
    """Two steps a buffer; the last of an odd number has one for itself."""
    alone = len(steps) - 1 if len(steps) % 2 else len(steps)
    return {
        step: StepPlace(number // 2, 0 if number == alone else shape.ring_tokens, number % 2 == 0 and number != alone)
        for number, step in enumerate(steps)
    }


class PairedCache:
    """As `KVCache`, of some layers of a range. `keys[layer]`, `values[layer]`: buffers [tokens, heads, head_dim]."""

    def __init__(
        self, shape: CacheShape, layers: Sequence[int], dtype: torch.dtype, device: torch.device, steps: range
    ) -> None:
        self.shape, self.layers, self.steps = shape, layers, steps
        self._places = step_places(shape, steps)
        rings = [sum(p.buffer == n for p in self._places.values()) for n in range((len(steps) + 1) // 2)]
        sizes = [(count * shape.ring_tokens + shape.sink_tokens, shape.heads, shape.head_dim) for count in rings]
        self.keys, self.values = (
            {layer: [torch.zeros(size, dtype=dtype, device=device) for size in sizes] for layer in layers}
            for _ in range(2)
        )
        self._first_block = 0
        self._sink: Sink | None = None
        self._frames: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        buffers = (*self.keys.values(), *self.values.values())
        return sum(tensor.nbytes for layer in buffers for tensor in layer)

    def keep_sink(self, sink: Sink, layer: int, unrotated: KeysValues, rotated_keys: Tensor) -> None:
        """One layer's sink, [1, sink tokens, heads, head_dim] each, for all steps: the one before is gone."""
        shape = self.shape
        turned = unrotated.k[0, : shape.reference_tokens, :, : shape.temporal_channels]
        if self._sink is not sink:
            if self._sink is not None:
                self._sink.reference_keys = None
            self._sink = sink
            sink.reference_keys = turned.new_empty(len(self.layers), *turned.shape)
        assert sink.reference_keys is not None
        sink.reference_keys[self.layers.index(layer)] = turned
        for place in self._places.values():
            span = slice(place.sink, place.sink + shape.sink_tokens)
            if not place.before:
                self.keys[layer][place.buffer][span] = rotated_keys[0]
                self.values[layer][place.buffer][span] = unrotated.v[0]
        self._frames.clear()

    def begin(self, uses: Sequence[CacheUse]) -> None:
        assert len(uses) == 1 and uses[0].sink is self._sink, "blocks must follow each other: their steps share a sink"
        (use,) = uses
        place = self._places[use.step]
        if self._frames.get(place.buffer) != use.reference.frame:
            self._turn_reference(place, use.reference.factors)
            self._frames[place.buffer] = use.reference.frame

    def _turn_reference(self, place: StepPlace, factors: RopeFactors) -> None:
        assert self._sink is not None and self._sink.reference_keys is not None
        tokens = slice(place.sink, place.sink + self.shape.reference_tokens)
        for start in range(0, len(self.layers), TURNED_AT_ONCE):
            together = slice(start, start + TURNED_AT_ONCE)
            turned = turn(self._sink.reference_keys[together], factors)
            for layer, keys in zip(self.layers[together], turned, strict=True):
                self.keys[layer][place.buffer][tokens, :, : self.shape.temporal_channels] = keys

    def attend(self, layer: int, use: CacheUse, own: KeysValues) -> KeysValues:
        place = self._places[use.step]
        keys, values = self.keys[layer][place.buffer], self.values[layer][place.buffer]
        slot = place.slot(self.shape, use.block)
        keys[slot], values[slot] = own.k[0], own.v[0]
        attended = place.attended(self.shape, self.shape.valid_tokens(use.block, self._first_block))
        return KeysValues(keys[None, attended], values[None, attended])

    def ring(self, step: int, block: int) -> dict[str, Tensor]:
        slots = list(self._slots(step, block))
        return {name: torch.cat([part[slot] for slot in slots]).cpu() for name, part in self._parts(step) if slots}

    def load_ring(self, step: int, block: int, tensors: Mapping[str, Tensor]) -> None:
        blocks = self.shape.kept_blocks(block, self._first_block)
        for name, part in self._parts(step) if blocks else ():
            saved = check_ring(name, tensors, self.shape, blocks, self.shape.head_dim)
            for slot, values in zip(self._slots(step, block), saved.split(self.shape.block_tokens), strict=True):
                part[slot] = values.to(part)

    def _slots(self, step: int, block: int) -> Iterator[slice]:
        for kept in self.shape.kept_blocks(block, self._first_block):
            yield self._places[step].slot(self.shape, kept)

    def _parts(self, step: int) -> Iterator[tuple[str, Tensor]]:
        buffer = self._places[step].buffer
        for kind, own in (("keys", self.keys), ("values", self.values)):
            for layer in self.layers:
                yield ring_name(step, layer, kind), own[layer][buffer]

    def start_at(self, block: int) -> None:
        self._first_block = block
