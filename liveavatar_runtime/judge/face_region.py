"""Which part of a frame is looked at: the face that OpenCV finds, or the whole frame."""

from dataclasses import dataclass

import numpy as np

from ..media.faces import Box, find_faces, why_unchecked
from .signs import Region

ROOM = 0.15
"""Of a face's width, what is looked at around it."""


@dataclass(eq=False)
class RegionFinder:
    """Looks for the face once a clip. Its size stays that of the first one, so that clips can be compared.

    `reason`: why the whole frame is looked at; "" where a face is.
    """

    reason: str = ""
    _region: Region | None = None
    _box: Box | None = None

    @property
    def region(self) -> Region:
        assert self._region is not None, "no frame was looked at"
        return self._region

    def look(self, frame: np.ndarray, picture: np.ndarray | None) -> None:
        """The first frame of a clip, uint8 [H, W, 3]; the picture in the same size, for the very first."""
        if self._region is None:
            self._begin(frame, picture)
        elif self._box is not None:
            found = find_faces(frame).faces
            if found and not any(box.is_same(self._box) for box in found):
                self._box = found[0]
                self._region = _moved(self._region, found[0], frame)

    def _begin(self, frame: np.ndarray, picture: np.ndarray | None) -> None:
        height, width = frame.shape[:2]
        self._region = Region(0, 0, height, width)
        self.reason = why_unchecked() or ""
        if self.reason:
            return
        shown = [pixels for pixels in (picture, frame) if pixels is not None]
        self._box = next((faces[0] for pixels in shown if (faces := find_faces(pixels).faces)), None)
        if self._box is None:
            self.reason = "no face was found"
            return
        side = min(round(self._box.width * (1 + 2 * ROOM)), height, width)
        self._region = _moved(Region(0, 0, side, side), self._box, frame)


def _moved(region: Region, box: Box, frame: np.ndarray) -> Region:
    """Around a face; a bit lower, since cascades leave out the chin."""
    height, width = frame.shape[:2]
    top = round(box.top + box.height * 0.55 - region.height / 2)
    left = round(box.left + box.width / 2 - region.width / 2)
    top = min(max(top, 0), height - region.height)
    return Region(top, min(max(left, 0), width - region.width), region.height, region.width)
