"""All messages: between ComfyUI and rank 0, between ranks, and with the rank that decodes.

Fields are checked when a message is read, before anyone acts on it: their types by msgspec, what types cannot say by
`check`. Tensors are fields like others; `wire.codec` moves them.
`number` tells runs apart, and videos that are decoded.
"""

import msgspec
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.duration import LATENT_FRAMES_PER_BLOCK
from liveavatar_runtime.latent_space import CHANNELS
from liveavatar_runtime.pipeline.transport import MessageKind
from liveavatar_runtime.vae.online_decoder import VideoStart

from .checks import check_block_latents, check_finite, check_tensor
from .message import Count, DtypeName, Message, Text
from .run_request import RunRequest

# ComfyUI to rank 0: the connection, runs, and videos to decode.


class Hello(Message, tag="hello"):
    """Begins a session; what another ComfyUI, or this one before, has begun ends."""

    version: Text


class Ring(Message, tag="ring"):
    """One tensor of a run's state, so that no message is large. Also from rank 0 to ComfyUI."""

    number: Count
    name: Text
    tensor: Tensor


class More(Message, tag="more"):
    """A credit: the run may go on until it has made this block."""

    number: Count
    block: Count


class Cancel(Message, tag="cancel"):
    number: Count


class WantRings(Message, tag="want_rings"):
    """The state after the last block, if that is `after`."""

    number: Count
    after: Count


class Release(Message, tag="release"):
    """The run's caches are not needed any more."""

    number: Count


class Voice(Message, tag="voice"):
    """What `WantVoice` asked for: float32 [actors, layers, audio_dim, frames]; with a driving video also the block's
    pose, float32 [16, 3, h, w]."""

    number: Count
    first: Count
    audio: Tensor
    pose: Tensor | None = None

    def check(self) -> None:
        check_tensor("audio", self.audio, None, None, None, None)
        if self.pose is not None:
            check_tensor("pose", self.pose, CHANNELS, LATENT_FRAMES_PER_BLOCK, None, None)

    def check_for(self, config: AvatarConfig, frames: int, actors: int | None = None) -> None:
        """Raises ValueError for a voice of another model, of other frames, or of other actors than there are masks."""
        check_tensor("audio", self.audio, actors, config.audio_layers, config.audio_dim, frames)

    def check_pose(self, size: tuple[int, int] | None) -> None:
        """Raises ValueError for a pose of another size (height, width); None: the run has none."""
        if (self.pose is None) != (size is None):
            raise ValueError(f"pose is {'missing' if self.pose is None else 'there'}; the run says otherwise")
        if self.pose is not None and size is not None:
            check_tensor("pose", self.pose, CHANNELS, LATENT_FRAMES_PER_BLOCK, *size)


class Noted(Message, tag="noted"):
    """A `Failure` has arrived; rank 0 may end now."""


class OpenDecoder(Message, tag="decoder_open"):
    """Begins a video, with the latents before its first block; ends the one before."""

    number: Count
    start: VideoStart | None
    dtype: Text
    priming: Tensor


class Decode(Message, tag="decode"):
    """A block's latents; the answer is `Frames`, in the same order."""

    number: Count
    block: Count
    latents: Tensor


class CloseDecoder(Message, tag="decoder_close"):
    number: Count


ToDecoder = OpenDecoder | Decode | CloseDecoder
ToWorkers = Hello | RunRequest | Ring | More | Cancel | WantRings | Release | Voice | Noted | ToDecoder


# Rank 0 to ComfyUI.


class Welcome(Message, tag="welcome"):
    version: Text


class SessionEnded(Message, tag="session_ended"):
    """The receiver's session is over, or was refused; nothing else will come."""

    reason: Text


class Malformed(Message, tag="malformed"):
    """A message of the receiver was thrown away; `reason` names its type and field."""

    reason: Text


class Beat(Message, tag="beat"):
    """The sender's program, not only its system, is alive."""


class RankAbout(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A rank that samples, and the bytes that it holds: of weights, and of caches once a run has begun."""

    where: Text
    bytes: Count
    caches: Count = 0


class DecoderAbout(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The rank that decodes; `keys`: its VAE's in each dtype (`weights_key.vae_keys`)."""

    rank: Count
    where: Text
    bytes: Count
    keys: dict[Text, Text]


class Ready(Message, tag="ready"):
    """The workers have loaded the model. `key`: `weights_key.weights_key` of it."""

    executor: Text
    config: AvatarConfig
    dtype: DtypeName
    key: Text
    ranks: list[RankAbout]
    vae: DecoderAbout | None


class Failure(Message, tag="failure"):
    """A rank, its device and machine, what happened, its traceback. `consequence`: only because another rank ended."""

    rank: Count
    where: Text
    message: Text
    trace: Text = ""
    consequence: bool = False


class WantVoice(Message, tag="want_voice"):
    """Features of video frames [first, first + count). Also from another rank to rank 0."""

    number: Count
    first: Count
    count: Count


class Step(Message, tag="step"):
    """One evaluation of the model. Also from another rank to rank 0."""

    number: Count
    block: Count
    step: Count
    sigma: float
    latents: Tensor
    velocity: Tensor

    def check(self) -> None:
        check_finite("sigma", self.sigma)
        for name in ("latents", "velocity"):
            check_block_latents(name, getattr(self, name))


class Block(Message, tag="block"):
    """A finished block. `rings`: how many `Ring` messages follow; `caches`: with a run's first block, bytes by rank."""

    number: Count
    index: Count
    clip: Count
    latents: Tensor
    rings: Count | None
    caches: list[Count] | None

    def check(self) -> None:
        check_block_latents("latents", self.latents)


class Rings(Message, tag="rings"):
    """Answers `WantRings`: how many `Ring` messages follow; None when the state is not that one any more."""

    number: Count
    count: Count | None


class End(Message, tag="end"):
    number: Count


class Cancelled(Message, tag="cancelled"):
    number: Count


class RunRefused(Message, tag="run_refused"):
    """The run cannot work; it is over."""

    number: Count
    reason: Text


class Frames(Message, tag="frames"):
    """pixels [3, frames, H, W] in -1..1, of the dtype that the VAE computes in."""

    number: Count
    block: Count
    pixels: Tensor


class DecoderRefused(Message, tag="decoder_refused"):
    """What was to be decoded cannot be; the video is over."""

    number: Count
    reason: Text


FromDecoder = Frames | DecoderRefused
OfRun = Step | Block | Ring | Rings | End | Cancelled | RunRefused
ToComfyUI = Welcome | SessionEnded | Malformed | Beat | Ready | Failure | WantVoice | OfRun | FromDecoder


# Between ranks, in a pipeline. `run` counts the runs of the group.


class StageInput(Message, tag="stage_input"):
    """What a stage's operation needs of another one (`parallel.transport.MessageKey`)."""

    run: Count
    kind: MessageKind
    block: Count
    step: Count
    tensors: dict[Text, Tensor]


class RankWantsVoice(Message, tag="rank_wants_voice"):
    run: Count
    want: WantVoice


class RankVoice(Message, tag="rank_voice"):
    run: Count
    first: Count
    audio: Tensor
    pose: Tensor | None


class RankStep(Message, tag="rank_step"):
    run: Count
    step: Step


class RankRings(Message, tag="rank_rings"):
    """A part of the state after a block."""

    run: Count
    block: Count
    tensors: dict[Text, Tensor]


class RankBlock(Message, tag="rank_block"):
    run: Count
    block: Count
    latents: Tensor


class Stop(Message, tag="stop"):
    """The run ends on all ranks; `why` is for the user, empty when it was cancelled."""

    run: Count
    why: Text


BetweenRanks = StageInput | RankWantsVoice | RankVoice | RankStep | RankRings | RankBlock | Stop


# Shared by rank 0 with all ranks, which wait for it together.


class Go(Message, tag="go"):
    """The next block is wanted."""


Shared = RunRequest | Ring | WantRings | Release | Voice | Go | Cancelled | RunRefused
