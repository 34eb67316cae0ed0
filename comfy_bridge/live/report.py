"""What is told of a live session when it is over: how late it was, where that time went, what was left out."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.errors import handled, reason_of
from liveavatar_runtime.live.latency import STAGES

from ..run_report import write_beside

if TYPE_CHECKING:
    from liveavatar_runtime.distribution import Summary
    from liveavatar_runtime.live.latency import Latency
    from liveavatar_runtime.sampling.plan import ClipPlan

    from ..output_files import OutputFile
    from .session import LiveSession

NAMES = {
    "look_ahead": "what the voice is heard ahead",
    "capture": "sound that came late",
    "features": "encoding the voice",
    "steps": "sampling",
    "decode_and_mux": "decoding, encoding, muxing",
    "player": "network and player",
}


@dataclass(eq=False)
class LiveReport:
    session: "LiveSession"
    plan: "ClipPlan"
    file: "OutputFile | None" = None
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def _latency(self) -> "Latency | None":
        return None if self.session.latency is None else self.session.latency.summary()

    def told(self) -> list[str]:
        """For the node."""
        lines = [f"Live for {format_duration(self.session.seconds)}"]
        latency = self._latency
        if latency is not None and latency.whole is not None:
            median, p95 = latency.whole.median, latency.whole.p95
            lines.append(f"From a sound to the frame that shows it: {median:.2f} s, 95 % within {p95:.2f} s")
        elif latency is not None and latency.until_written is not None:
            lines.append(f"From the end of a block to its frames: {latency.until_written.median:.2f} s; nobody watched")
        return lines

    def warnings(self) -> list[str]:
        dropped = self.session.sound.dropped
        told: list[str] = []
        if dropped.silence >= 0.1:
            told.append(
                f"The video was behind the voice, so pauses were shortened by {dropped.silence:.1f} s in all. Choose a "
                "smaller size or fewer steps; when_late wait leaves nothing out."
            )
        if dropped.speech >= 0.1:
            told.append(
                f"{dropped.speech:.1f} s of the voice were left out, as the video was too far behind. Choose a smaller "
                "size or fewer steps."
            )
        return told

    def markdown(self) -> str:
        """Tables."""
        rows = ["| | median | 95 % within | most |", "| --- | --- | --- | --- |"]
        latency = self._latency
        if latency is not None:
            block = self.session.latency.block_seconds if self.session.latency is not None else 0.0
            rows.append(_row("**a sound to the frame that shows it**", latency.whole))
            rows.append(f"| to the end of its block | {block / 2:.2f} s | {0.95 * block:.2f} s | {block:.2f} s |")
            rows.extend(_row(NAMES[name], latency.stages[name]) for name in STAGES)
        return "\n".join([*(f"- {line}" for line in [*self.told(), *self.warnings()]), "", *rows])

    def write(self) -> list[str]:
        """Beside the recording, if there is one; what went wrong."""
        told: list[str] = []
        if self.file is not None and self.file.path.is_file():
            with handled(OSError, lambda error: told.append(f"The report could not be written: {reason_of(error)}")):
                write_beside(self.file.path, self.as_json())
        return told

    def as_json(self) -> str:
        latency = self._latency
        return json.dumps(
            {
                "date": self.date,
                "seconds": float(self.session.seconds),
                "size": f"{self.plan.width}x{self.plan.height}",
                "fps": str(self.plan.fps),
                "latency": None if latency is None else asdict(latency),
                "dropped": asdict(self.session.sound.dropped),
                "told": [*self.told(), *self.warnings(), *self.session.told],
            },
            indent=1,
        )


def _row(name: str, summary: "Summary | None") -> str:
    if summary is None:
        return f"| {name} | - | - | - |"
    return f"| {name} | {summary.median:.2f} s | {summary.p95:.2f} s | {summary.max:.2f} s |"
