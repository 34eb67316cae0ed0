"""The two demo models, with the picture and the size that each was made for."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class DemoBundle:
    """`folder` of the model, a `picture` of somebody that it knows how to draw, `side` of its square videos."""

    folder: Path
    picture: Path
    side: int

    @property
    def name(self) -> str:
        """As Load Avatar Model lists it."""
        return f"{self.folder.name}/"


SMALL = DemoBundle(FOLDER / "liveavatar-demo", FOLDER / "portrait.png", 64)
PEOPLE = DemoBundle(FOLDER / "liveavatar-demo-128", FOLDER / "portrait_128.png", 128)
"""That of `demo.people`; its folder is there when it was trained, and its picture when it was drawn (`demo_files`)."""
BY_SIDE = {bundle.side: bundle for bundle in (SMALL, PEOPLE)}
