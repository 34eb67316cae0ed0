"""What travels between the nodes of an avatar: the model, and the stream of latents."""

from dataclasses import dataclass
from typing import Any

import torch

from liveavatar_runtime.config import AvatarConfig


@dataclass(frozen=True, eq=False)
class AvatarModel:
    """A loaded transformer: ComfyUI's patcher of its S2V model, its sizes, and the dtype it computes in.

    `executor` and `devices` are those that were chosen (`liveavatar_runtime.devices`); "auto" with several
    devices is decided when the plan is known. With `workers`
    (`liveavatar_workers.client.groups.Workers`) other processes hold the model and there is no patcher; `devices` is
    empty for those of other machines. `key` tells the weights of files apart, in ComfyUI and in workers
    (`liveavatar_runtime.checkpoint.weights_key`); a connected MODEL has none. `made_for`: width and height of the only
    size that the model knows, where its folder says so.
    """

    patcher: Any
    config: AvatarConfig
    dtype: torch.dtype
    executor: str = "local"
    devices: tuple[torch.device, ...] = ()
    workers: Any = None
    key: str = ""
    made_for: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class AvatarLatents:
    """A lazy stream of latent blocks and the sound that belongs to it.

    stream: liveavatar_runtime.spool.latent_stream.LatentStream; audio: AvatarAudio; workers: those that sample it
    (`AvatarModel.workers`), or None.
    """

    stream: Any
    audio: Any
    workers: Any = None
