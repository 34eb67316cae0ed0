"""Who decodes the blocks: ComfyUI's VAE, a small decoder, or the rank of the workers that holds the same VAE."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.progress import Progress

from .avatar import AvatarLatents
from .comfy_types import Managed, Vae
from .progress import preparation, stop_if_interrupted
from .tiny_decoder import is_tiny, managed_tiny_decoder
from .vae import managed_vae

if TYPE_CHECKING:
    from liveavatar_runtime.online_video import BlockDecoder
    from liveavatar_runtime.vae.online_decoder import VideoStart
    from liveavatar_workers.client.groups import Workers
    from liveavatar_workers.messages import DecoderAbout

AUTO, COMFYUI, WORKERS = "auto", "comfyui", "workers"
DECODERS = (AUTO, COMFYUI, WORKERS)


class ManagedDecoder(Protocol):
    """A VAE of some kind under ComfyUI's memory management, as far as it decodes."""

    @property
    def patcher(self) -> "Managed[torch.nn.Module]": ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def told(self) -> str:
        """What a user should know of it; empty for the Wan 2.1 VAE."""
        ...

    @property
    def past_latents(self) -> int:
        """Latent frames that it must be given before a block."""
        ...

    def decoder(self, priming: Tensor, start: "VideoStart | None", progress: Progress) -> "BlockDecoder":
        """Loaded, and primed with latents [16, n, h, w]."""
        ...


class Primed(Protocol):
    """A stream of blocks, as far as a decoder begins with it."""

    def priming(self, past_latents: int) -> Tensor:
        """[16, n, h, w]: what comes before its first block."""
        ...


_KEYS: "WeakKeyDictionary[ManagedDecoder, str]" = WeakKeyDictionary()


def managed_decoder(vae: Vae | None) -> ManagedDecoder:
    """Raises InputError when no VAE is connected, or one for other latents than Wan 2.1's."""
    return managed_tiny_decoder(vae) if vae is not None and is_tiny(vae) else managed_vae(vae)


@dataclass(frozen=True, eq=False)
class DecoderChoice:
    """ComfyUI's VAE, or with `workers` theirs, which is the same; and what the user is told about it."""

    vae: ManagedDecoder
    workers: "Workers | None" = None
    told: str = ""


def choose_decoder(choice: str, latents: AvatarLatents, vae: ManagedDecoder) -> DecoderChoice:
    """Raises InputError when `choice` is "workers" and they have no VAE, or another one."""
    if choice == COMFYUI or (choice == AUTO and latents.workers is None):
        return DecoderChoice(vae, told=vae.told)
    if latents.workers is None:
        raise InputError(
            "decoder is workers, but the latents come from a model in this ComfyUI; set decoder to auto, or workers in "
            "Load Avatar Model to the name of workers that were started with --vae"
        )
    stream = latents.stream
    # A finished video needs no workers, so nobody waits for some that are gone.
    needed = choice == WORKERS or stream.finished_clips < len(stream.segment.clips)
    about = latents.workers.decoder(stop_if_interrupted, needed)
    reason = refusal(about, vae)
    if about is not None and not reason:
        return DecoderChoice(vae, latents.workers, f"Decoded by rank {about.rank} of the workers ({about.where})")
    if choice == WORKERS:
        raise InputError(f"decoder is workers, but {reason}; or set decoder to auto or comfyui")
    by_comfyui = f"Decoded by ComfyUI: {reason}" if about is not None else ""
    return DecoderChoice(vae, told="; ".join(filter(None, (vae.told, by_comfyui))))


def refusal(about: "DecoderAbout | None", vae: ManagedDecoder) -> str:
    """Why workers cannot decode in place of this VAE, and what to do; empty when they can."""
    from liveavatar_runtime.dtypes import dtype_name

    if about is None:
        return "these workers have no VAE; start them with --vae and one more rank"
    if about.keys.get(dtype_name(vae.dtype)) == key_of(vae):
        return ""
    return f"rank {about.rank} of the workers ({about.where}) holds another VAE; give both sides the same file"


def key_of(vae: ManagedDecoder) -> str:
    """`vae_key`, computed once for each VAE."""
    from liveavatar_runtime.checkpoint.weights_key import vae_key

    if vae not in _KEYS:
        _KEYS[vae] = vae_key(vae.patcher.model.state_dict(), vae.dtype)
    return _KEYS[vae]


@contextmanager
def open_decoder(
    chosen: DecoderChoice, stream: Primed, start: "VideoStart | None", node_id: str
) -> "Iterator[BlockDecoder]":
    """What decodes the stream's blocks, primed, with progress on the node; for workers no VAE is loaded here."""
    vae = chosen.vae
    priming = stream.priming(vae.past_latents)
    if chosen.workers is not None:
        from liveavatar_workers.client.decoder import RemoteDecoder

        with closing(RemoteDecoder(chosen.workers, priming, start, vae.dtype, stop_if_interrupted)) as decoder:
            yield decoder
        return
    yield vae.decoder(priming, start, preparation(node_id, "Preparing the decoder"))
