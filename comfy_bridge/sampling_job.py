"""What there is to sample: a plan, with a model, while a VAE decodes the blocks that are finished."""

from dataclasses import dataclass

from liveavatar_runtime.sampling.plan import ClipPlan

from .avatar import AvatarModel
from .vae import ManagedVAE


@dataclass(frozen=True, eq=False)
class SamplingJob:
    """A plan that a model samples while a VAE decodes its blocks."""

    model: AvatarModel
    plan: ClipPlan
    vae: ManagedVAE

    @property
    def decoder_bytes(self) -> int:
        """The VAE and its work, on its device while the model samples."""
        return self.vae.patcher.model_size() + self.decoding_bytes

    @property
    def decoding_bytes(self) -> int:
        """The VAE's work alone."""
        from liveavatar_runtime.planning.memory import decode_bytes

        return decode_bytes(self.vae.patcher.model.config, self.plan, self.vae.dtype)
