"""ClipPlan: everything that decides the shape of the work. Equal plans and conditions give equal latents."""

import random
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from ..duration import (
    FRAMES_PER_BLOCK,
    FRAMES_PER_LATENT,
    LATENT_FRAMES_PER_BLOCK,
    check_infer_frames,
    check_num_clip,
    segment_clips,
    video_frames,
)
from ..errors import InputError
from ..latent_space import CHANNELS, STRIDE, TOKEN_SIDE
from .script import NO_SCRIPT, Script
from .takes import Take

SIDE_MULTIPLE = 64
MAX_SIDE = 4096
MIN_DISTANCE, MAX_DISTANCE = 4, 30
"""Latent frames between a block and the reference picture in RoPE time: the range the model was trained with."""

ENDLESS_CLIPS = 10**9
"""Stands for no end where a number is needed: ninety years of clips of 3 s."""

SinkPolicy = Literal["adaptive", "reference", "reanchor"]
SINK_POLICIES: tuple[SinkPolicy, ...] = ("adaptive", "reference", "reanchor")


def check_distance(distance: int) -> int:
    """`distance` itself. Raises InputError outside the range the model was trained with."""
    if not MIN_DISTANCE <= distance <= MAX_DISTANCE:
        raise InputError(
            f"relative_distance is {distance}; allowed are {MIN_DISTANCE} to {MAX_DISTANCE} latent frames, "
            "or 0 in the node for a draw at every step"
        )
    return distance


@dataclass(frozen=True)
class Segment:
    """The part of a plan's video that is made now: whole clips, of which the last one's `cut_frames` are not shown."""

    clips: range
    infer_frames: int
    cut_frames: int = 0

    @property
    def blocks(self) -> range:
        """Blocks, counted over the whole video."""
        blocks_per_clip = self.infer_frames // FRAMES_PER_BLOCK
        return range(self.clips.start * blocks_per_clip, self.clips.stop * blocks_per_clip)

    @property
    def first_frame(self) -> int:
        """Frames of the whole video before this part."""
        return self.clips.start * self.infer_frames

    @property
    def frames(self) -> int:
        """Frames of the video that this part has."""
        return video_frames(len(self.clips), self.infer_frames) - self.cut_frames

    @property
    def starts_video(self) -> bool:
        return self.clips.start == 0


@dataclass(frozen=True)
class SinkSource:
    """What a sink is made from; equal ones make equal sinks.

    `frame_of`: the block whose first latent frame is its reference; None: the picture. `picture`, `text`: the blocks
    from which on the reference picture and the prompt have been in force, 0 from the beginning.
    """

    frame_of: int | None = None
    picture: int = 0
    text: int = 0


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """The work of one video.

    `width`, `height`: pixels, multiples of 64. With `keep_aspect` they name an area, and `fitted_to` a picture gives
    the plan whose sides have that picture's aspect. `relative_distance`: latent frames from a block to the reference
    picture; an int for every evaluation, a tuple that is gone through cyclically by evaluation, None for a draw
    seeded by (seed, block, step). `window_blocks`: blocks the ring cache holds. `sink_policy`: "adaptive" replaces
    the reference picture by the first generated latent frame after clip 0, "reference" keeps it, "reanchor" replaces
    it as adaptive does and again after every `reanchor_clips` clips, by the newest clip's first latent frame.
    `segment_clips`, `segment_index`: which part of the video is made now (0 and 0: all). They change no latents: all
    other fields describe the whole video. `cut_frames`: frames at the end of the last clip that are sampled, as a clip
    is what is kept, and left out of the video. `script`: what changes in the course of the video.
    `takes`: clips that are made again with other noise; `takes.resolved` makes seeds of them before sampling.
    `endless`: of a live video, which ends when it is stopped; `without_end` makes such a plan, `until` parts of it.
    """

    num_clip: int = 10
    infer_frames: int = 48
    fps: Fraction = Fraction(16)
    width: int = 688
    height: int = 368
    keep_aspect: bool = True
    seed: int = 0
    steps: int = 4
    shift: float = 3.0
    sink_policy: SinkPolicy = "adaptive"
    relative_distance: int | tuple[int, ...] | None = 17
    window_blocks: int = 4
    segment_clips: int = 0
    segment_index: int = 0
    reanchor_clips: int = 10
    cut_frames: int = 0
    script: Script = NO_SCRIPT
    takes: tuple[Take, ...] = ()
    endless: bool = False

    def __post_init__(self) -> None:
        check_num_clip(self.num_clip)
        if self.endless and (self.num_clip, self.segment_clips, self.cut_frames) != (ENDLESS_CLIPS, 0, 0):
            raise InputError("a video without an end has no segments and no last clip; set segment_clips to 0")
        check_infer_frames(self.infer_frames)
        self._check_size()
        if not 1 <= self.steps <= 100:
            raise InputError(f"steps is {self.steps}; allowed are 1 to 100. The model is distilled for 4.")
        if self.sink_policy not in SINK_POLICIES:
            raise InputError(f"sink_policy is {self.sink_policy!r}; allowed are {', '.join(SINK_POLICIES)}")
        if isinstance(self.relative_distance, int):
            check_distance(self.relative_distance)
        if self.window_blocks < 1:
            raise InputError(f"window_blocks is {self.window_blocks}; use at least 1 (4 is what the model knows)")
        if self.reanchor_clips < 1:
            raise InputError(f"reanchor_clips is {self.reanchor_clips}; use at least 1")
        segment_clips(self.num_clip, self.segment_clips, self.segment_index)
        if not 0 <= self.cut_frames < self.infer_frames:
            raise InputError(f"cut_frames is {self.cut_frames}; allowed are 0 to {self.infer_frames - 1}")

    def _check_size(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not SIDE_MULTIPLE <= side <= MAX_SIDE:
                raise InputError(f"{name} is {side}; allowed are {SIDE_MULTIPLE} to {MAX_SIDE} pixels")
            if not self.keep_aspect and side % TOKEN_SIDE:
                raise InputError(f"{name} is {side}; without keep_aspect it must be a multiple of {TOKEN_SIDE}")

    def fitted_to(self, picture_height: int, picture_width: int) -> "ClipPlan":
        """The plan with the final sides for a picture: its aspect within the area, multiples of 64."""
        if not self.keep_aspect:
            return self
        from ..media.images import fit_size

        height, width = fit_size(picture_height, picture_width, self.width * self.height)
        return replace(self, width=width, height=height, keep_aspect=False)

    def clamped_to(self, audio_clips: int) -> "ClipPlan":
        """The plan with no more clips than the sound fills."""
        return self if self.num_clip <= audio_clips else replace(self, num_clip=audio_clips, cut_frames=0)

    def until(self, clip: int) -> "ClipPlan":
        """The plan that ends before a clip; its latents are the beginning of this plan's."""
        return replace(self, num_clip=clip, segment_clips=0, segment_index=0, cut_frames=0, endless=False)

    def without_end(self) -> "ClipPlan":
        """The plan that goes on until it is stopped; its latents begin with this plan's."""
        return replace(self, num_clip=ENDLESS_CLIPS, segment_clips=0, segment_index=0, cut_frames=0, endless=True)

    @property
    def segment(self) -> Segment:
        """The part that is made now."""
        clips = segment_clips(self.num_clip, self.segment_clips, self.segment_index)
        return Segment(clips, self.infer_frames, self.cut_frames if clips.stop == self.num_clip else 0)

    @property
    def frames(self) -> int:
        """Frames of the whole video."""
        return video_frames(self.num_clip, self.infer_frames) - self.cut_frames

    @property
    def duration(self) -> Fraction:
        """Seconds of the whole video."""
        return self.frames / self.fps

    @property
    def blocks_per_clip(self) -> int:
        return self.infer_frames // FRAMES_PER_BLOCK

    @property
    def num_blocks(self) -> int:
        return self.num_clip * self.blocks_per_clip

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return self.height // STRIDE, self.width // STRIDE

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens of a latent frame."""
        height, width = self.latent_size
        return height // 2, width // 2

    @property
    def evaluations(self) -> int:
        """Runs of the model."""
        return self.num_blocks * self.steps

    def clip_of(self, block: int) -> int:
        return block // self.blocks_per_clip

    def distance(self, block: int, step: int) -> int:
        """Latent frames from block `block` to the reference picture at one step."""
        if isinstance(self.relative_distance, int):
            return self.relative_distance
        if self.relative_distance is None:
            seed = self.script.seed_at(block, self.seed)
            return random.Random(f"{seed}/{block}/{step}").randint(MIN_DISTANCE, MAX_DISTANCE)
        return self.relative_distance[(block * self.steps + step) % len(self.relative_distance)]

    def clip_noise(self, clip: int, seed: int | None = None) -> Tensor:
        """Start noise of a clip, float32 [16, infer_frames / 4, h, w], from a CPU generator seeded seed + clip; None:
        the plan's seed."""
        generator = torch.Generator("cpu").manual_seed(((self.seed if seed is None else seed) + clip) % 2**64)
        shape = (CHANNELS, self.infer_frames // FRAMES_PER_LATENT, *self.latent_size)
        return torch.randn(shape, generator=generator)

    def block_noise(self, block: int) -> Tensor:
        """Start noise of a block, float32 [16, 3, h, w]: its part of the clip's, of the seed in force."""
        clip, offset = divmod(block, self.blocks_per_clip)
        first = offset * LATENT_FRAMES_PER_BLOCK
        noise = self.clip_noise(clip, self.script.seed_at(block, self.seed))
        return noise[:, first : first + LATENT_FRAMES_PER_BLOCK]

    def sink_source(self, block: int) -> SinkSource:
        """What the sink is made from while `block` is sampled."""
        picture, text = self.script.picture_since(block), self.script.text_since(block)
        return SinkSource(self._frame_of_sink(block, picture), picture, text)

    def _frame_of_sink(self, block: int, picture: int) -> int | None:
        """The block whose first latent frame is the sink's reference; None: the picture in force since `picture`."""
        clip, first_clip = self.clip_of(block), self.clip_of(picture)
        if self.sink_policy == "reference" or clip == first_clip:
            return None
        anchor = 0
        if self.sink_policy == "reanchor":
            anchor = (clip - first_clip - 1) // self.reanchor_clips * self.reanchor_clips
        # A picture that begins within a clip has no frame of its own before.
        return picture if anchor == 0 else (first_clip + anchor) * self.blocks_per_clip

    def sink_frames(self, first_block: int = 0) -> set[int]:
        """Blocks whose first latent frame a sink is made from while the blocks from `first_block` on are sampled."""
        # A clip and a change begin with a sink of their own; other blocks have that of the block before.
        clips = range(
            -(-first_block // self.blocks_per_clip) * self.blocks_per_clip, self.num_blocks, self.blocks_per_clip
        )
        changes = (change.block for change in self.script.changes if first_block < change.block < self.num_blocks)
        begins = {first_block, *clips, *changes} if first_block < self.num_blocks else set[int]()
        sources = {self.sink_source(block).frame_of for block in begins}
        return {source for source in sources if source is not None}
