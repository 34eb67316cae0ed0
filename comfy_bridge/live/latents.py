"""What DiT Sampler gives for a live voice, over the socket of all latents."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from liveavatar_runtime.errors import InputError

from ..avatar import AvatarLatents
from ..beside import Beside

if TYPE_CHECKING:
    from liveavatar_runtime.live.stream import LiveLatentStream

    from ..sampling_report import SamplingReport
    from .session import LiveSession


@dataclass(frozen=True, eq=False)
class LiveLatents:
    """A stream that is made while somebody speaks, its session, what its user is told meanwhile, what else works
    beside it, and the picture [H, W, C] of 0..1 that it begins with."""

    stream: "LiveLatentStream"
    session: "LiveSession"
    report: "SamplingReport"
    beside: Beside = field(default_factory=Beside)
    picture: "Tensor | None" = None


def recorded(latents: "AvatarLatents | LiveLatents") -> AvatarLatents:
    """Latents that can be had again. Raises InputError for those of a live voice."""
    if isinstance(latents, LiveLatents):
        raise InputError(
            "these latents are of a live voice, which only Live Out can show. Connect Live Out to DiT Sampler; with "
            "record on it also writes the video to a file. Or use Audio Encode in place of Live Voice."
        )
    return latents


def live(latents: "AvatarLatents | LiveLatents") -> LiveLatents:
    """Raises InputError for latents of a recorded voice."""
    if not isinstance(latents, LiveLatents):
        raise InputError(
            "these latents are of a recorded voice. Use Online VAE Decode, which writes its video and shows it while "
            "it is made; or connect Live Voice to avatar_audio of DiT Sampler."
        )
    return latents
