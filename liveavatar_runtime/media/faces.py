"""Whether a picture shows one face that is large enough, by the Haar cascades that come with OpenCV 4.

Cascades know upright faces of people, also drawn ones. They miss some and take patterns for faces now and then, so a
face counts when two of them agree, and that there is none is only said of photos where no cascade sees anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .images import covered_part, rgb_pixels

if TYPE_CHECKING:
    from torch import Tensor

OPENCV_PACKAGES = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
FRONTAL = ("frontalface_alt2", "frontalface_default", "frontalface_alt")
PROFILE = "profileface"
SEARCHED_SIDE = 480
"""Pictures are searched at this size of the longer side, in pixels; smaller ones as they are."""
SMALLEST_FACE = 1 / 24
"""Of the longer side."""
NEIGHBOURS, FEW_NEIGHBOURS = 3, 2
"""Overlapping hits that make a face of one cascade, and that make a sign of one."""
SAME_FACE = 0.4
"""Overlap (intersection over union) of two boxes of one face."""
SECOND_FACE = 0.5
"""Width of a further face, of the largest one's, that the model might animate too."""
DRAWN = 0.5
"""Share of neighbouring pixels of one grey above which a picture is drawn, or a photo before a plain wall."""
SMALL_SHARE, SMALL_WIDTH = 0.05, 64
"""A face is small below both: part of the video's area, and pixels of its width (four tokens)."""
CUT_OFF = 0.75
"""Part of a face that has to be inside of what the video shows."""


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels of the picture that was given."""

    left: float
    top: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height

    def shared(self, other: "Box") -> float:
        """Area of the part that both have."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def is_same(self, other: "Box") -> bool:
        shared = self.shared(other)
        return shared > SAME_FACE * (self.area + other.area - shared)


@dataclass(frozen=True)
class Found:
    """faces: those that two cascades agree on, the largest first. signs: whether there is anything like a face. drawn:
    the picture has large even parts, as drawings have. perhaps: what only one cascade takes for a face."""

    faces: tuple[Box, ...]
    signs: bool
    drawn: bool
    perhaps: tuple[Box, ...] = ()


@dataclass(frozen=True)
class FaceCheck:
    """warnings: what a user should know of the faces. unchecked: why they could not be looked for, or None."""

    warnings: tuple[str, ...] = ()
    unchecked: str | None = None


def check_faces(picture: "Tensor", height: int, width: int, areas: "Tensor | None" = None) -> FaceCheck:
    """Looks for the face in a picture [H, W, C] of 0..1 that becomes a video of that size, or for one in each area
    [A, h, w] of it, 0 or 1, where several people speak."""
    reason = why_unchecked()
    if reason:
        return FaceCheck(unchecked=f"Faces in the picture are not checked: {reason}; {opencv_advice()}.")
    if areas is not None:
        return FaceCheck(warnings=tuple(area_warnings(picture, height, width, areas)))
    return FaceCheck(warnings=face_warnings(picture, height, width))


def opencv_advice() -> str:
    """How to get an OpenCV that works. Several packages bring the same module: the last one that was installed or
    removed has overwritten or taken away files of the others."""
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in distributions()}
    several = sorted(name for name in names if name in OPENCV_PACKAGES)
    if len(several) < 2:
        return 'pip install "opencv-python>=4.8,<5" brings the check'
    return (
        f"{', '.join(several)} are installed and bring the same module. Remove all of them, then install one: "
        f'pip uninstall {" ".join(several)}, pip install "opencv-python>=4.8,<5"'
    )


def why_unchecked() -> str | None:
    """What is wrong with the OpenCV that is installed; None when it can look for faces."""
    try:
        import cv2
    except ImportError as error:
        return f"OpenCV cannot be imported ({error})"
    if not hasattr(cv2, "CascadeClassifier"):
        return f"OpenCV {cv2.__version__} has no face cascades"
    if not all(_cascade_file(name) for name in (*FRONTAL, PROFILE)):
        return f"OpenCV {cv2.__version__} came without its cascade files"
    return None


def face_warnings(picture: "Tensor", height: int, width: int) -> tuple[str, ...]:
    """As `check_faces`, with an OpenCV that `why_unchecked` finds nothing wrong with."""
    found = find_faces(rgb_pixels(picture))
    if not found.faces:
        if found.signs or found.drawn:
            return ()
        return (
            "No face was found in the picture. The model animates a face that looks at the camera; the search knows "
            "faces of people and misses animals and some drawings, so ignore this if there is one.",
        )
    shown, face = _shown(picture, height, width), found.faces[0]
    if face.shared(shown) < CUT_OFF * face.area:
        return (
            f"The face is cut off: a video of {width}x{height} shows the middle of the picture only. Crop the picture "
            "around the face, or choose a size nearer to its aspect.",
        )
    faces = [box for box in found.faces if box.width >= SECOND_FACE * face.width and box.shared(shown) > box.area / 2]
    if len(faces) > 1:
        return (
            f"{len(faces)} faces were found in the picture, and all of them may move to one voice. Crop the picture "
            "to one, or give each a voice with Speakers.",
        )
    pixels = face.width * width / shown.width
    if pixels < SMALL_WIDTH and face.area < SMALL_SHARE * shown.area:
        return (
            f"The face is small: about {pixels:.0f} pixels wide in a video of {width}x{height}, too few for its mouth. "
            "Crop the picture closer to the face, or make the video larger.",
        )
    return ()


def area_warnings(picture: "Tensor", height: int, width: int, areas: "Tensor") -> Iterator[str]:
    """Of each speaker whose area has no face, or one that is cut off or small, with an OpenCV that `why_unchecked`
    finds nothing wrong with. Where the cascades see none at all, as in some drawings, nothing is said of areas."""
    faces, shown = find_faces(rgb_pixels(picture)).faces, _shown(picture, height, width)
    down, across = areas.shape[1] / picture.shape[0], areas.shape[2] / picture.shape[1]
    for number, area in enumerate(areas if faces else (), 1):
        middles = [(int((f.top + f.height / 2) * down), int((f.left + f.width / 2) * across)) for f in faces]
        inside = [face for face, middle in zip(faces, middles, strict=True) if area[middle] > 0.5]
        if not inside:
            yield (
                f"No face was found in the area of speaker {number}. Look at the overlay of Speakers: a voice moves "
                "what is in its area."
            )
            continue
        face = inside[0]
        pixels = face.width * width / shown.width
        if face.shared(shown) < CUT_OFF * face.area:
            yield (
                f"The face of speaker {number} is cut off: a video of {width}x{height} shows the middle of the picture "
                "only. Choose a size nearer to its aspect."
            )
        elif pixels < SMALL_WIDTH and face.area * len(areas) < SMALL_SHARE * shown.area:
            yield (
                f"The face of speaker {number} is small: about {pixels:.0f} pixels wide in a video of {width}x{height},"
                " too few for its mouth. Crop the picture closer to the speakers, or make the video larger."
            )


def _shown(picture: "Tensor", height: int, width: int) -> Box:
    """The part of a picture that a video of that size shows."""
    return Box(*covered_part(picture.shape[1], picture.shape[0], width, height))


def find_faces(pixels: np.ndarray) -> Found:
    """The faces in a picture, uint8 RGB [H, W, 3]."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, SEARCHED_SIDE / max(grey.shape))
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = _search(grey.tobytes(), grey.shape[1])

    def in_picture(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
        return tuple(Box(box.left / scale, box.top / scale, box.width / scale, box.height / scale) for box in boxes)

    return Found(in_picture(found.faces), found.signs, found.drawn, in_picture(found.perhaps))


# The same picture is used again and again while prompt and settings are tried.
@lru_cache(maxsize=16)
def _search(pixels: bytes, width: int) -> Found:
    """As `find_faces`, of grey pixels [H, width]."""
    grey = np.frombuffer(pixels, np.uint8).reshape(-1, width)
    by_cascade = [_boxes(name, grey, NEIGHBOURS) for name in FRONTAL]
    faces: list[Box] = []
    for number, boxes in enumerate(by_cascade):
        others = [other for later in by_cascade[number + 1 :] for other in later]
        new = [box for box in boxes if not any(box.is_same(face) for face in faces)]
        faces += [box for box in new if any(box.is_same(other) for other in others)]
    perhaps: list[Box] = []
    for box in (box for boxes in by_cascade for box in boxes):
        if not any(box.shared(other) > 0 for other in (*faces, *perhaps)):
            perhaps.append(box)
    signs = any(by_cascade) or _signs(grey)
    return Found(tuple(sorted(faces, key=lambda box: -box.area)), signs, _evenness(grey) > DRAWN, tuple(perhaps))


def _signs(grey: np.ndarray) -> bool:
    """Anything that some cascade takes for a face, from the front or from either side."""
    mirrored = np.ascontiguousarray(grey[:, ::-1])
    searches = [*((name, grey) for name in FRONTAL), (PROFILE, grey), (PROFILE, mirrored)]
    return any(_boxes(name, image, FEW_NEIGHBOURS) for name, image in searches)


def _boxes(name: str, grey: np.ndarray, neighbours: int) -> list[Box]:
    smallest = round(SMALLEST_FACE * max(grey.shape))
    hits = _cascade(name).detectMultiScale(grey, 1.1, neighbours, minSize=(smallest, smallest))
    return [Box(*map(float, hit)) for hit in hits]


def _evenness(grey: np.ndarray) -> float:
    """Share of pixels that equal their left neighbour."""
    return float((grey[:, 1:] == grey[:, :-1]).mean())


def _cascade_file(name: str) -> Path | None:
    import cv2

    # Builds of distributions have no `cv2.data`.
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    path = Path(folder or "") / f"haarcascade_{name}.xml"
    return path if folder and path.is_file() else None


@cache
def _cascade(name: str) -> Any:
    import cv2

    path = _cascade_file(name)
    assert path
    # OpenCV opens no file whose path has other than ASCII characters on Windows.
    storage = cv2.FileStorage(path.read_text(encoding="utf-8"), cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    assert classifier.read(storage.getFirstTopLevelNode()), f"{path} is no cascade that OpenCV {cv2.__version__} reads"
    return classifier
