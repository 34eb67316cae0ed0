"""The report of a video: a JSON file beside it, and a table. It is also written of a run that ends early."""

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import comfy.model_management

from liveavatar_runtime.errors import handled, on_failure, reason_of
from liveavatar_runtime.judge.judgement import Judgement
from liveavatar_runtime.run_report import FINISHED, INTERRUPTED, MadeVideo, Peak, RunReport, Sampled

from .memory_watch import MemoryWatch
from .progress import log
from .run_facts import device_name, versions
from .run_judge import RunJudge
from .speed_records import keep

if TYPE_CHECKING:
    from liveavatar_runtime.finishing.step import FrameShape
    from liveavatar_runtime.online_video import OnlineVideo

    from .avatar import AvatarLatents
    from .output_files import OutputFile
    from .video_output import VideoSettings

ELSEWHERE = "Versions and RAM of the workers are not known here"


@dataclass(eq=False)
class Reporting:
    """Watches the making of a video; leaving the `with` block makes the report, however it is left.

        with Reporting(latents, settings, file, video) as reporting:
            reporting.frames, reporting.wanted = frames in the file, and all that there are to be

    decoder: what is told of who decodes. judge: what looks at the frames, None where nobody does. report: of the run,
    None without frames; markdown: its tables. path: of the JSON file, None where none was written: without frames, or
    with `report` off.
    """

    latents: "AvatarLatents"
    settings: "VideoSettings"
    file: "OutputFile"
    video: "OnlineVideo"
    decoder: str = ""
    judge: RunJudge | None = None
    frames: int = 0
    wanted: int = 0
    markdown: str = ""
    path: Path | None = None
    problem: str = ""
    report: RunReport | None = None
    _watch: MemoryWatch = field(init=False)

    def __enter__(self) -> "Reporting":
        report = self.latents.report
        if report is not None:
            report.begin()
        self._watch = report.watch if report is not None else MemoryWatch(())
        self._watch.read()
        return self

    def note_memory(self) -> None:
        """Also while blocks are replayed."""
        self._watch.read()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        times = self.video.times
        times.ended = times.clock()
        if not self.frames or not self.file.path.is_file():
            return
        self.report = self._report(how_it_ended(error))
        self.markdown = self.report.as_markdown()
        if self.settings.report:
            with handled(OSError, self._not_written):
                self.path = write_beside(self.file.path, self.report.as_json())
        # With a finishing it is not the machine's speed of sampling and decoding.
        if self.latents.report is not None and not self.settings.finishing.chain.steps:
            keep(self.latents.report.facts.key, self.report)

    @property
    def warnings(self) -> list[str]:
        """For the node."""
        judged = self._judgement
        wrong = (
            f"{judged.headline}. A click on one of them below the video makes it again"
            if judged and judged.faults
            else ""
        )
        given_up = self.judge.problem if self.judge is not None else ""
        return [*self._watch.warnings, *filter(None, [self.problem, given_up, wrong])]

    def told(self) -> list[str]:
        """For the node: what held the run up, which cards could do more, and where the report is."""
        where = [f"{self.path.name} beside it is the report of this run"] if self.path is not None else []
        judged = self._judgement
        looked = [] if judged is None else judged.told() if judged.faults else [judged.headline]
        return [self.video.times.sentence(), *self._watch.hints(), *looked, *where]

    @property
    def _judgement(self) -> Judgement | None:
        if self.judge is None:
            return None
        return self.judge.judgement(self.frames // self.settings.finishing.chain.frames_factor)

    def wrong(self) -> dict[int, str]:
        """Clips that look wrong, counted from 0 over the whole video, and why."""
        judged = self._judgement
        return {} if judged is None else {clip: judged.reasons(clip) for clip in judged.faults}

    def _not_written(self, error: OSError) -> None:
        self.problem = f"The run report could not be written beside {self.file.name}: {reason_of(error)}"
        log.warning("%s", self.problem)

    def _report(self, ended: str) -> RunReport:
        plan, told, shape = self.latents.stream.plan, self.latents.report, self._shape()
        judged = self._judgement
        made = MadeVideo(
            file=self.file.name,
            clips=len(plan.segment.clips),
            infer_frames=plan.infer_frames,
            width=shape.width,
            height=shape.height,
            frames=self.frames,
            wanted_frames=self.wanted,
            seconds=float(self.frames / shape.fps),
        )
        return RunReport(
            ended=ended,
            date=time.strftime("%Y-%m-%d %H:%M:%S"),
            video=made,
            settings={**(told.facts.settings if told is not None else {}), "output": self._output()},
            versions=versions(),
            times=self.video.times,
            sampled=told.sampled if told is not None else Sampled(),
            peaks=[
                Peak(device=most.device, name=device_name(most.device), used=most.used, total=most.total)
                for most in self._watch.peaks.values()
            ],
            predicted=told.facts.foreseen.figures if told is not None else {},
            predicted_from=told.facts.foreseen.source if told is not None else "unknown",
            warnings=[*self.latents.stream.news, *self._watch.warnings, *self._watch.hints()],
            judged=judged.as_values() if judged is not None else None,
            judged_tables=judged.section() if judged is not None else "",
            unknown=[*self._watch.unknown(), *([ELSEWHERE] if self.latents.workers is not None else [])],
        )

    def _output(self) -> dict[str, object]:
        settings = self.settings
        chosen = {name: getattr(settings, name) for name in ("codec", "pixel_format", "crf", "start", "return_frames")}
        finishing = settings.finishing.chain.told
        return {**chosen, "decoder": self.decoder or "ComfyUI", **({"finishing": finishing} if finishing else {})}

    def _shape(self) -> "FrameShape":
        from liveavatar_runtime.planning.kept_frames import decoded_shape

        return self.settings.finishing.chain.shape(decoded_shape(self.latents.stream.plan))


def how_it_ended(error: BaseException | None) -> str:
    if error is None:
        return FINISHED
    if isinstance(error, comfy.model_management.InterruptProcessingException):
        return INTERRUPTED
    return f"failed: {type(error).__name__}: {error}"


def write_beside(video: Path, text: str) -> Path:
    """A JSON file with the video's name; one that is there already stays, and the new one gets a number. Of one that
    cannot be written, as on a full disk, nothing is left."""
    for number in count(1):
        path = video.with_suffix(".json" if number == 1 else f".{number}.json")
        with handled(FileExistsError, partial(log.debug, "%s is there already: %s", path)):
            path.touch(exist_ok=False)
            with on_failure(partial(path.unlink, missing_ok=True)):
                path.write_text(text, encoding="utf-8")
            return path
    raise AssertionError("numbers do not end")
