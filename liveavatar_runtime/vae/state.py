"""What a video stream remembers between calls: the last frames that each causal convolution has read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ..errors import InputError, MachineError
from .layout import memory_format

STREAM_KEY = "stream"

OnLayer = Callable[[], None]
"""Called after every layer of a chunk, for progress and interruption; may raise, which ends the stream."""


Progress = Callable[[int, int], None]
"""Called as (layers done, layers in all)."""


def go_on() -> None:
    """The OnLayer of whoever does not want to know."""


def counted(progress: Progress, total: int) -> OnLayer:
    """An OnLayer that counts for `progress`."""
    done = count(1)
    return lambda: progress(next(done), total)


class History(Protocol):
    """The past as the layers see it. Names are those of the convolutions in the state dict."""

    @property
    def fresh(self) -> bool:
        """Whether the chunk now being computed is the first of the video."""
        ...

    def on_layer(self) -> None:
        """Called after every layer; may raise, which ends the stream."""
        ...

    def remember(self, name: str, x: Tensor, frames: int) -> None:
        """Keep the last `frames` frames of x [B, C, T, H, W] as the past of the next chunk."""
        ...

    def join(self, name: str, x: Tensor, frames: int) -> Tensor:
        """x with the `frames` frames before it in front, [B, C, frames + T, H, W]; remembers x's end."""
        ...


def _joined(before: Tensor, x: Tensor) -> Tensor:
    """Both [B, C, T, H, W] along the time, lying as x does."""
    if memory_format(x) == torch.contiguous_format:
        return torch.cat([before.to(x), x], dim=2)
    frames = before.shape[2]
    shape = (*x.shape[:2], frames + x.shape[2], *x.shape[3:])
    joined = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    joined[:, :, :frames], joined[:, :, frames:] = before, x
    return joined


class StillHistory:
    """The past of a picture that has always been there: every frame before x is like x's first."""

    fresh = False

    def __init__(self, on_layer: OnLayer = go_on) -> None:
        self.on_layer = on_layer

    def remember(self, name: str, x: Tensor, frames: int) -> None:
        pass

    def join(self, name: str, x: Tensor, frames: int) -> Tensor:
        return _joined(x[:, :, :1].expand(-1, -1, frames, -1, -1), x)


@dataclass
class StreamState:
    """A fresh state is the start of a video; a call of the stream it is given to moves it on.

    Tensors are replaced, never changed in place, so `from_tensors(state.tensors())` is a snapshot that costs nothing
    and can be continued any number of times, also by another process, from a safetensors file or on another device.
    """

    part: ClassVar[str]

    caches: dict[str, Tensor] = field(default_factory=dict)
    chunks: int = 0
    grid: tuple[int, int, int] | None = None
    interrupted: bool = False
    at_once: int = field(default=1, repr=False, compare=False)
    watch: OnLayer = field(default=go_on, repr=False, compare=False)

    @property
    def fresh(self) -> bool:
        return self.chunks == 0

    @property
    def nbytes(self) -> int:
        """Memory of the caches in bytes; constant from the second chunk on."""
        return sum(cache.nbytes for cache in self.caches.values())

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as tensors, contiguous and separate as safetensors wants them; not copies on a processor."""
        self._check_whole()
        caches = {name: cache.contiguous() for name, cache in self.caches.items()}
        return {STREAM_KEY: torch.tensor([self.chunks, *(self.grid or (0, 0, 0))]), **caches}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what `tensors` returned; raises InputError when it is no state of this kind."""
        stream = tensors.get(STREAM_KEY)
        foreign = [name for name in tensors if name != STREAM_KEY and not name.startswith(f"{cls.part}.")]
        if stream is None or stream.shape != (4,) or foreign:
            given = ", ".join(sorted(tensors)[:5]) or "nothing"
            raise InputError(
                f"the tensors are no {cls.__name__}: they need '{STREAM_KEY}' with 4 numbers and names that start with "
                f"'{cls.part}.', and have {given}; give what {cls.__name__}.tensors() returned"
            )
        chunks, batch, height, width = (int(number) for number in stream)
        caches = {name: tensor for name, tensor in tensors.items() if name != STREAM_KEY}
        return cls(caches, chunks, (batch, height, width) if chunks else None)

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device (the same tensors where they are there already)."""
        self._check_whole()
        return type(self)({name: cache.to(device) for name, cache in self.caches.items()}, self.chunks, self.grid)

    def on_layer(self) -> None:
        for _ in range(self.at_once):
            self.watch()

    @contextmanager
    def chunk(self, grid: tuple[int, int, int], at_once: int = 1) -> Iterator[None]:
        """Around the computation of one chunk of (batch, latent height, latent width), or of several at once.

        Raises InputError when the stream has another size, MachineError when an earlier chunk was left half way.
        """
        self._check_whole()
        if self.grid not in (None, grid):
            raise InputError(
                f"this stream has batch, latent height, latent width {self.grid}, now {grid} was given; "
                "all parts of a video have one size: give the same size, or a fresh state for another video"
            )
        self.interrupted, self.at_once = True, at_once
        yield
        self.interrupted = False
        self.grid = grid
        self.chunks += at_once

    def remember(self, name: str, x: Tensor, frames: int) -> None:
        # A view would keep the whole chunk alive.
        self.caches[name] = x[:, :, -frames:].clone(memory_format=memory_format(x))

    def join(self, name: str, x: Tensor, frames: int) -> Tensor:
        before = self.caches.get(name)
        if before is None:
            before = x.new_zeros(x.shape[0], x.shape[1], frames, x.shape[3], x.shape[4])
        joined = _joined(before, x)
        self.remember(name, joined, frames)
        return joined

    def _check_whole(self) -> None:
        if self.interrupted:
            raise MachineError(
                "an earlier chunk of this video stream failed half way, so its state is not usable any more; "
                "continue from a snapshot (from_tensors) or begin with a fresh state"
            )


class EncodeState(StreamState):
    """State of `WanVAE.encode_stream`."""

    part = "encoder"


class DecodeState(StreamState):
    """State of `WanVAE.decode_stream`."""

    part = "decoder"
