"""What there is to sample: a plan, with a model, while a VAE decodes the blocks that are finished."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from liveavatar_runtime.sampling.plan import ClipPlan

from .avatar import AvatarModel
from .beside import Beside
from .memory import in_ram, on_disk_bytes
from .vae import ManagedVAE

if TYPE_CHECKING:
    from liveavatar_runtime.planning.workload import Workload


@dataclass(frozen=True, eq=False)
class SamplingJob:
    """A plan that a model samples while a VAE decodes its blocks, and encodes those of a driving video if it is
    `driven`; `beside`: what else works meanwhile."""

    model: AvatarModel
    plan: ClipPlan
    vae: ManagedVAE
    driven: bool = False
    beside: Beside = field(default_factory=Beside)

    @cached_property
    def work(self) -> "Workload":
        """Of one evaluation of the plan, with the weights as they are kept; workers keep theirs in their dtype."""
        from liveavatar_runtime.planning.workload import Workload

        model = self.model
        if model.loaded is None:
            return Workload(model.config, self.plan, model.dtype)
        stored, on_disk = model.patcher.model_size(), on_disk_bytes(model.patcher)
        return Workload(model.config, self.plan, model.dtype, stored_bytes=stored, on_disk_bytes=on_disk)

    @property
    def decoder_bytes(self) -> int:
        """The VAE and its work, on its device while the model samples."""
        return self.vae.patcher.model_size() + self.decoding_bytes

    @property
    def decoding_bytes(self) -> int:
        """The VAE's work alone."""
        from liveavatar_runtime.planning.memory import decode_bytes

        return decode_bytes(self.vae.patcher.model.config, self.plan, self.vae.dtype) + self.pose_bytes

    @property
    def pose_bytes(self) -> int:
        """The part of it that encodes a driving video."""
        from liveavatar_runtime.planning.memory import pose_bytes

        return pose_bytes(self.vae.patcher.model.config, self.plan, self.vae.dtype) if self.driven else 0


def weights_in_ram(job: SamplingJob) -> int:
    """Bytes of the model's weights that are in system memory now, and not only in their file."""
    return in_ram(job.model.loaded)
