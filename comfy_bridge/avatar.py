"""What travels between the nodes of an avatar: the model, and the stream of latents."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.executors.table import DEFAULT
from liveavatar_runtime.sampling.takes import Take

from .beside import Beside

if TYPE_CHECKING:
    from torch import Tensor

    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.spool.latent_stream import LatentStream
    from liveavatar_workers.client.groups import Workers

    from .comfy_types import Patcher
    from .sampling_report import SamplingReport


@dataclass(frozen=True)
class Origin:
    """Names, without their folders: of the file or folder of a model (or what gave it), and of each LoRA with its
    strength."""

    model: str
    loras: tuple[tuple[str, float], ...] = ()


UNKNOWN_ORIGIN = Origin("connected MODEL")


@dataclass(frozen=True, eq=False)
class AvatarModel:
    """A loaded transformer: ComfyUI's MODEL of it, its sizes, and the dtype it computes in.

    `executor` and `devices` are those that were chosen (`liveavatar_runtime.executors.table`); "auto" with several
    devices is decided when the plan is known. With `workers` other processes hold the model and there is no MODEL;
    `devices` is empty for those of other machines. `key` tells the weights of files apart, in ComfyUI and in workers
    (`liveavatar_runtime.checkpoint.weights_key`); a connected MODEL has none. `made_for`: width and height of the only
    size that the model knows, where its folder says so. `origin`: where its weights are from, for reports.
    """

    loaded: "Patcher | None"
    config: AvatarConfig
    dtype: torch.dtype
    executor: str = DEFAULT
    devices: tuple[torch.device, ...] = ()
    workers: "Workers | None" = None
    key: str = ""
    made_for: tuple[int, int] | None = None
    origin: Origin = UNKNOWN_ORIGIN

    @property
    def patcher(self) -> "Patcher":
        """The MODEL of a model that is in this process.

        Raises AttributeError for one of workers, because ComfyUI asks whatever a node gives whether it has this.
        """
        if self.loaded is None:
            raise AttributeError("workers hold this model")
        return self.loaded

    @property
    def home(self) -> torch.device:
        """Where a model of this process runs when it runs on one device."""
        return self.devices[0] if self.devices else self.patcher.load_device

    @property
    def devices_here(self) -> tuple[torch.device, ...]:
        """Where it may run, as far as that is known; none for workers on other machines."""
        return self.devices or ((self.home,) if self.workers is None else ())


@dataclass(frozen=True, eq=False)
class AvatarLatents:
    """A lazy stream of latent blocks, the sound that belongs to it, the workers that sample it, if any do, what its
    user is told meanwhile, the takes of its clips, what else works while it is sampled, and the picture [H, W, C] of
    0..1 that it begins with."""

    stream: "LatentStream"
    audio: "Voice"
    workers: "Workers | None" = None
    report: "SamplingReport | None" = None
    takes: tuple[Take, ...] = ()
    beside: Beside = field(default_factory=Beside)
    picture: "Tensor | None" = None

    def told(self) -> list[str]:
        """What is worth knowing of the stream when its blocks were taken."""
        return [*self.stream.facts, *(self.report.lines() if self.report is not None else [])]
