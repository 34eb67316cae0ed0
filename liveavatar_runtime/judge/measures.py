"""All that is measured of a clip, in one row."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClipMeasures:
    """Of one clip; None where nothing can be said: nobody speaks, too few frames, nothing to compare with.

    sync: correlation of mouth and voice at the best lag; in_time: without a lag; usual_sync: that of good clips around.
    lag: frames by which the mouth comes after the voice. moves: the least movement of the mouth for that of the voice,
    1 is usual. silent: how far the mouth is open in silence, 1 is as in loud parts. likeness: to the reference, of the
    block that is least like it, 1 is the same. picture: levels of 255 by which the face differs from the picture's.
    colour: levels of 255 by which the clip's colours differ from the reference's. colour_step: the largest change at
    once. sharpness: fine detail, 1 is the reference's. still: most repeated frames in a row. seam, jump: by how much
    the largest step at a border of blocks and elsewhere exceeds those around it, in usual steps.
    """

    sync: float | None = None
    lag: float | None = None
    in_time: float | None = None
    usual_sync: float | None = None
    moves: float | None = None
    silent: float | None = None
    likeness: float | None = None
    picture: float | None = None
    colour: float | None = None
    colour_step: float | None = None
    sharpness: float | None = None
    still: float | None = None
    seam: float | None = None
    jump: float | None = None
