"""KVCache that is kept elsewhere or smaller, and staged for attention layer by layer.

The four per-step caches of the 14B model are 36 GiB at 688x368, more than most cards have. Here they stay in RAM, or on
the device in fp8, and only what the next attention reads is brought into one of two buffers in the model's dtype. On
CUDA a stream of its own fills one buffer while attention reads the other; only the slot that a block wrote goes back.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..device_kinds import FUSED_FORMS, copies_ahead
from ..pinned_memory import BY_DRIVER, HostMemory, Pinning
from .attention import KeysValues
from .fp8 import from_fp8, to_fp8
from .kv_cache import CacheShape, CacheUse, Sink, check_ring, ring_name
from .paired_cache import PairedCache
from .placement import IN_RAM, Placement, StoredType
from .rope import apply_rope_into

MakeTensor = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""(shape, dtype) -> a tensor where a store is kept; its values are written before they are read."""


class Store(Protocol):
    """Keys or values of one layer, [steps, ring tokens, heads, head_dim], as they are kept."""

    def parts(self, row: int) -> dict[str, Tensor]:
        """The tensors [ring tokens, heads, ...] that one step is kept in, by the end of their name."""
        ...

    def write(self, row: int, tokens: slice, values: Tensor) -> int:
        """Keep values [tokens, heads, head_dim]; returns the bytes that were moved."""
        ...

    def read(self, row: int, tokens: slice, into: Tensor) -> int:
        """Fill `into` [tokens, heads, head_dim] in the model's dtype; returns the bytes that were moved."""
        ...


class PlainStore:
    """In the model's dtype."""

    def __init__(self, size: tuple[int, ...], dtype: torch.dtype, make: MakeTensor) -> None:
        self._kept = make(size, dtype)

    def parts(self, row: int) -> dict[str, Tensor]:
        return {"": self._kept[row]}

    def write(self, row: int, tokens: slice, values: Tensor) -> int:
        ahead = copies_ahead(values.device, self._kept.device)
        self._kept[row, tokens].copy_(values, non_blocking=ahead)
        return values.nbytes

    def read(self, row: int, tokens: slice, into: Tensor) -> int:
        into.copy_(self._kept[row, tokens], non_blocking=copies_ahead(into.device, self._kept.device))
        return into.nbytes


class Fp8Store:
    """In fp8, with a scale for each token and head."""

    def __init__(self, size: tuple[int, ...], make: MakeTensor) -> None:
        self._kept = make(size, torch.uint8)
        self._scales = make((*size[:-1], 1), torch.float32)

    def parts(self, row: int) -> dict[str, Tensor]:
        return {"": self._kept[row], ".scale": self._scales[row]}

    def write(self, row: int, tokens: slice, values: Tensor) -> int:
        quantised, scale = to_fp8(values)
        ahead = copies_ahead(values.device, self._kept.device)
        self._kept[row, tokens].copy_(quantised, non_blocking=ahead)
        self._scales[row, tokens].copy_(scale, non_blocking=ahead)
        return quantised.nbytes + scale.nbytes

    def read(self, row: int, tokens: slice, into: Tensor) -> int:
        ahead = copies_ahead(into.device, self._kept.device)
        kept = self._kept[row, tokens].to(into.device, non_blocking=ahead)
        scale = self._scales[row, tokens].to(into.device, non_blocking=ahead)
        into.copy_(from_fp8(kept, scale))
        return kept.nbytes + scale.nbytes


@dataclass
class Traffic:
    """Bytes that went between RAM and the buffers."""

    fetched: int = 0
    written: int = 0


class CopyStream:
    """A CUDA stream for the copies, in step with the stream that computes; on other devices nothing overlaps."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def after_compute(self, *tensors: Tensor) -> Any:
        """Context whose work runs on the copy stream, after all that was queued for computing; it reads `tensors`."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        for tensor in tensors:
            tensor.record_stream(self._stream)
        return torch.cuda.stream(self._stream)

    def mark(self) -> Any:
        """A point behind all copies so far, for `wait`."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self, mark: Any) -> None:
        """Computing goes on once the copies before `mark` are done."""
        if mark is not None and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(mark)

    def finish(self) -> None:
        """Wait until the store holds all that was written."""
        if self._stream is not None:
            self._stream.synchronize()


def spread(layers: range, count: int) -> list[int]:
    """So many of the layers, at even distances: a copy then has the layers between to hide behind."""
    return [layer for n, layer in enumerate(layers) if (n + 1) * count // len(layers) > n * count // len(layers)]


class SinkMemory:
    """System memory for the sinks of layers in RAM. A sink's is used again when nobody has the sink any more."""

    def __init__(
        self, shape: CacheShape, layers: int, dtype: torch.dtype, device: torch.device, pinning: Pinning
    ) -> None:
        self._shape, self._dtype = (shape.sink_tokens, shape.heads, shape.head_dim), dtype
        self._make = partial(HostMemory, 2 * layers * [math.prod(self._shape) * dtype.itemsize], device, pinning)
        self._of: weakref.WeakKeyDictionary[Sink, HostMemory] = weakref.WeakKeyDictionary()
        self._free: list[HostMemory] = []

    def of(self, sink: Sink, copies: CopyStream) -> list[Tensor]:
        """The next layer's tensors for a sink: keys and values."""
        memory = self._of.get(sink)
        if memory is None:
            memory = self._of[sink] = self._again(copies) if self._free else self._make()
            weakref.finalize(sink, self._free.append, memory)
        return [memory.take(self._shape, self._dtype) for _ in range(2)]

    def _again(self, copies: CopyStream) -> HostMemory:
        # The last copies from it may not be done.
        copies.finish()
        memory = self._free.pop()
        memory.rewind()
        return memory


def _stored_sizes(size: tuple[int, ...], dtype: torch.dtype, stored: StoredType) -> list[int]:
    """Bytes of the tensors of one store, in the order in which it makes them."""
    values = math.prod(size)
    return [values, 4 * values // size[-1]] if stored == "fp8" else [values * dtype.itemsize]


def _zeros(device: torch.device, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype, device=device)


class StagedCache:
    """KVCache in RAM or on the device, in the model's dtype or fp8, staged through two buffers.

    Of a cache in RAM, `device_layers` of the layers stay on the device all the same and need not be moved. On a card
    attention reads them in place if blocks come one after the other (`in_turn`, `paired_cache`). In the model's dtype
    attention reads exactly what it would read from a `ResidentCache`, in place in another order. The sink is kept once,
    not for every step, and in the model's dtype. A block's own keys and values are exact in its own attention.
    """

    def __init__(
        self,
        shape: CacheShape,
        layers: range,
        dtype: torch.dtype,
        device: torch.device | str,
        steps: range | None = None,
        placement: Placement = IN_RAM,
        pinning: Pinning = BY_DRIVER,
        in_turn: bool = False,
    ) -> None:
        self.shape, self.layers = shape, layers
        self.steps = range(shape.steps) if steps is None else steps
        self.traffic = Traffic()
        device = torch.device(device)
        self._device = device
        on_device = spread(layers, placement.device_layers) if placement.kv_cache == "ram" else layers
        self._in_ram = set(layers) - set(on_device)
        in_place = on_device if in_turn and placement.reads_in_place and device.type in FUSED_FORMS else []
        self._in_place = PairedCache(shape, in_place, dtype, device, self.steps)
        self._staged = [layer for layer in layers if layer not in in_place]
        ring = (len(self.steps), shape.ring_tokens, shape.heads, shape.head_dim)
        sizes = _stored_sizes(ring, dtype, placement.kv_dtype)
        self._ram = HostMemory(2 * len(self._in_ram) * sizes, device, pinning)
        self._sinks = SinkMemory(shape, len(self._in_ram), dtype, device, pinning)
        self._keys = {layer: self._store(layer, ring, dtype, placement.kv_dtype) for layer in self._staged}
        self._values = {layer: self._store(layer, ring, dtype, placement.kv_dtype) for layer in self._staged}
        buffer = (2, 1, shape.tokens if self._staged else 0, shape.heads, shape.head_dim)
        self._buffer_keys = torch.zeros(buffer, dtype=dtype, device=device)
        self._buffer_values = torch.zeros(buffer, dtype=dtype, device=device)
        self._copies = CopyStream(device)
        self._first_block = 0
        self._order: list[tuple[int, CacheUse]] = []
        self._turn = 0
        self._fetched: Any = None

    @property
    def nbytes(self) -> int:
        """With the buffers that all layers share."""
        stores = (*self._keys.values(), *self._values.values())
        kept = [part for store in stores for row in range(len(self.steps)) for part in store.parts(row).values()]
        return self._in_place.nbytes + sum(t.nbytes for t in (*kept, self._buffer_keys, self._buffer_values))

    def _store(self, layer: int, size: tuple[int, ...], dtype: torch.dtype, stored: StoredType) -> Store:
        make = self._ram.take if layer in self._in_ram else partial(_zeros, self._device)
        return Fp8Store(size, make) if stored == "fp8" else PlainStore(size, dtype, make)

    def _count(self, layer: int, fetched: int = 0, written: int = 0) -> None:
        if layer in self._in_ram:
            self.traffic.fetched += fetched
            self.traffic.written += written

    def keep_sink(self, sink: Sink, layer: int, unrotated: KeysValues, rotated_keys: Tensor) -> None:
        if layer in self._in_place.keys:
            self._in_place.keep_sink(sink, layer, unrotated, rotated_keys)
            return
        parts = self.shape.sink_keys(unrotated.k, rotated_keys), unrotated.v[0]
        if layer in self._in_ram:
            kept = [home.copy_(part) for home, part in zip(self._sinks.of(sink, self._copies), parts, strict=True)]
        else:
            kept = [part.clone() for part in parts]
        sink.keys[layer], sink.values[layer] = kept

    def begin(self, uses: Sequence[CacheUse]) -> None:
        if self._in_place.layers:
            self._in_place.begin(uses)
        self._order = [(layer, use) for layer in self._staged for use in uses]
        self._turn = 0
        self._fetch()

    def attend(self, layer: int, use: CacheUse, own: KeysValues) -> KeysValues:
        if layer in self._in_place.keys:
            return self._in_place.attend(layer, use, own)
        assert self._order[self._turn] == (layer, use), "attention must follow the order that begin() was given"
        keys, values = self._buffer_keys[self._turn % 2], self._buffer_values[self._turn % 2]
        self._copies.wait(self._fetched)
        self._turn += 1
        self._fetch()
        turned = keys[:, : self.shape.reference_tokens, :, : self.shape.temporal_channels]
        apply_rope_into(turned, turned, use.reference.factors)
        slot = self.shape.slot(use.block)
        keys[:, slot], values[:, slot] = own.k, own.v
        # From the buffer, where the keys are rounded; what fetches into it next waits behind this copy.
        self._write_back(layer, use, KeysValues(keys[:, slot], values[:, slot]))
        valid = self.shape.valid_tokens(use.block, self._first_block)
        return KeysValues(keys[:, :valid], values[:, :valid])

    def _fetch(self) -> None:
        """Bring what the next attention reads into the buffer that is free."""
        if self._turn == len(self._order):
            return
        layer, use = self._order[self._turn]
        keys, values = self._buffer_keys[self._turn % 2, 0], self._buffer_values[self._turn % 2, 0]
        with self._copies.after_compute(keys, values):
            self._fetch_sink(use.sink, layer, keys, values)
            row, sink = self.steps.index(use.step), self.shape.sink_tokens
            for span in self._spans(use.block):
                into = slice(sink + span.start, sink + span.stop)
                self._count(layer, fetched=self._keys[layer].read(row, span, keys[into]))
                self._count(layer, fetched=self._values[layer].read(row, span, values[into]))
        self._fetched = self._copies.mark()

    def _fetch_sink(self, sink: Sink, layer: int, keys: Tensor, values: Tensor) -> None:
        for into, source in ((keys, sink.keys[layer]), (values, sink.values[layer])):
            into[: self.shape.sink_tokens].copy_(source, non_blocking=copies_ahead(into.device, source.device))
            self._count(layer, fetched=source.nbytes)

    def _spans(self, block: int) -> list[slice]:
        """Tokens of the ring that a block reads beside its own slot, which it overwrites."""
        own = self._ring_slot(block)
        valid = self.shape.valid_tokens(block, self._first_block) - self.shape.sink_tokens
        spans = (slice(0, own.start), slice(own.stop, valid))
        return [span for span in spans if span.stop > span.start]

    def _ring_slot(self, block: int) -> slice:
        slot = self.shape.slot(block)
        return slice(slot.start - self.shape.sink_tokens, slot.stop - self.shape.sink_tokens)

    def _write_back(self, layer: int, use: CacheUse, own: KeysValues) -> None:
        row, slot = self.steps.index(use.step), self._ring_slot(use.block)
        with self._copies.after_compute(own.k, own.v):
            self._count(layer, written=self._keys[layer].write(row, slot, own.k[0]))
            self._count(layer, written=self._values[layer].write(row, slot, own.v[0]))

    def ring(self, step: int, block: int) -> dict[str, Tensor]:
        self._copies.finish()
        blocks = self.shape.kept_blocks(block, self._first_block)
        staged = {
            name: torch.cat([part[self._ring_slot(kept)] for kept in blocks]).cpu()
            for name, part in self._parts(step)
            if blocks
        }
        return {**staged, **self._in_place.ring(step, block)}

    def load_ring(self, step: int, block: int, tensors: Mapping[str, Tensor]) -> None:
        blocks = self.shape.kept_blocks(block, self._first_block)
        for name, part in self._parts(step) if blocks else ():
            saved = check_ring(name, tensors, self.shape, blocks, part.shape[-1])
            for kept, values in zip(blocks, saved.split(self.shape.block_tokens), strict=True):
                part[self._ring_slot(kept)] = values.to(part)
        self._in_place.load_ring(step, block, tensors)

    def _parts(self, step: int) -> Iterator[tuple[str, Tensor]]:
        row = self.steps.index(step)
        for kind, stores in (("keys", self._keys), ("values", self._values)):
            for layer in self._staged:
                for end, part in stores[layer].parts(row).items():
                    yield ring_name(step, layer, kind) + end, part

    def start_at(self, block: int) -> None:
        self._first_block = block
        self._in_place.start_at(block)
