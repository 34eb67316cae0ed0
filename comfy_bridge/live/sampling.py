"""DiT Sampler with a live voice: a stream without an end, directed while it runs."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.live.directed import Directed
from liveavatar_runtime.live.latency import LatencyMeter
from liveavatar_runtime.live.state import StateFile
from liveavatar_runtime.live.stream import Keeping, LiveLatentStream, SamplingHooks
from liveavatar_runtime.live.voice import HearingHooks
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.sampling.run import Evaluation, RunStart, SamplingRequest
from liveavatar_runtime.spool.states import SMALL_STATE

from ..cause_of_nan import cause_of_nan
from ..executors import executor_of
from ..folders import user_file
from ..model_fingerprint import weights_of
from ..notes import Notes
from ..progress import after_step, preparation, show_text, stop_if_interrupted
from ..run_facts import facts_of
from ..sampling_report import SamplingReport
from ..spool_folder import GIB, KEEP, NamedVideo, SpoolChoice
from .director import Director
from .latents import LiveLatents
from .session import LiveSession, session_of

if TYPE_CHECKING:
    from liveavatar_runtime.sampling.conditions import Conditions
    from liveavatar_runtime.sampling.plan import ClipPlan
    from liveavatar_runtime.sampling.run import KeepRings, SamplingRun

    from ..comfy_types import Hidden
    from ..prepared_job import PreparedJob

FOLDER = "__liveavatar_live"
CLIPS_BETWEEN_STATES = 20
"""A minute of clips of 3 s: what a crash costs of a video whose states are small."""


def session_for(voice: object) -> LiveSession:
    """Raises InputError for a live voice whose session is over: ComfyUI keeps what nodes gave."""
    session = session_of(voice)
    if session is None or session.stage != "preparing":
        raise InputError("this live session is over. Queue the workflow again, which begins another one.")
    return session


def live_latents(work: "PreparedJob", choice: SpoolChoice, hidden: "Hidden", notes: Notes) -> LiveLatents:
    """All is prepared, and nothing sampled: that begins when Live Out asks for blocks."""
    prepared, job = work.prepared, work.job
    session = session_for(work.voice)
    report = SamplingReport(hidden, facts_of(work))
    director = Director(session, job.model.config, job.vae, prepared.plan)
    directed = Directed(prepared.plan, prepared.conditions)
    keeping = _keeping(work, choice, hidden, notes)
    starting = _Starting(work, session, report)
    hooks = SamplingHooks(
        stopped=lambda: session.sound.is_stopped,
        asked=director.is_asked,
        direct=director.direct,
        say=lambda text: show_text(report.node_id, text),
        cause_of_nan=lambda: cause_of_nan(job.model, work.numerics),
    )
    stream = LiveLatentStream(directed, prepared.priming, starting, keeping, hooks)
    starting.first_block = director.first_block = stream.first_block
    _listen(session, prepared.plan)
    report.follow(stream)
    return LiveLatents(stream, session, report, job.beside, work.picture)


def _listen(session: LiveSession, plan: "ClipPlan") -> None:
    """Waiting for sound can be interrupted, and what it takes is measured."""
    sound = session.sound
    seconds = float(FRAMES_PER_BLOCK / plan.fps)
    # Where programs speak alone, a block is made when it begins: all that is to be said in it is known.
    first = session.voice.needed(0, FRAMES_PER_BLOCK, plan.fps) / sound.sample_rate
    sound.options = replace(sound.options, ahead=first)
    meter = LatencyMeter(seconds, lambda second: sound.due(round(second * sound.sample_rate)))
    session.latency = meter

    def heard(first_frame: int, due: float, ready: float, encoded: float) -> None:
        meter.heard(first_frame // FRAMES_PER_BLOCK, due, ready, encoded)

    session.voice.hooks = HearingHooks(stop_if_interrupted, heard)


@dataclass(eq=False)
class _Starting:
    """Begins runs of the session's stream, which begins with `first_block`."""

    work: "PreparedJob"
    session: LiveSession
    report: SamplingReport
    first_block: int = 0

    def __call__(
        self, plan: "ClipPlan", conditions: "Conditions", start: RunStart, keep_rings: "KeepRings"
    ) -> "SamplingRun":
        work = self.work
        meter = self.report.meter(work.prepared.plan)
        executor = executor_of(replace(work.job, plan=plan), work.executor, work.attention.kernel, work.compile_layers)

        def after_evaluation(evaluation: Evaluation) -> None:
            self.report.show(meter.after(evaluation))
            if evaluation.step == plan.steps - 1 and self.session.latency is not None:
                self.session.latency.sampled(evaluation.block - self.first_block)
            stop_if_interrupted()
            after_step()

        return work.driven(executor.run(SamplingRequest(conditions, plan, start, after_evaluation, keep_rings)))


def _keeping(work: "PreparedJob", choice: SpoolChoice, hidden: "Hidden", notes: Notes) -> Keeping:
    """Where the state to go on from is kept, if it may be; the notes say which."""
    plan, size = work.prepared.plan, ring_bytes(work.job.work, work.executor.placement)
    if choice.spool != KEEP or not plan.endless:
        return Keeping()
    if size > choice.state_budget * GIB:
        notes.tell("After a stop the avatar begins with its picture: its state does not fit into state_budget")
        return Keeping()
    reading = preparation(hidden.unique_id, "Reading the weights of base_model once, to know the session again")
    video = NamedVideo(weights_of(work.job.model, reading), work.prepared, work.voice.fingerprint)
    folder = user_file(FOLDER) / video.key(work.numerics)
    make_room(folder.parent, choice.state_budget * GIB - size, folder.name)
    return Keeping(StateFile(folder), CLIPS_BETWEEN_STATES if size <= SMALL_STATE else 0)


def make_room(root: Path, budget: float, own: str) -> None:
    """Remove states of other videos, those that were not used for longest first, until they are within a budget."""
    folders = sorted(filter(Path.is_dir, root.glob("*")), key=_last_used) if root.is_dir() else []
    sizes = {folder: sum(path.stat().st_size for path in folder.iterdir()) for folder in folders if folder.name != own}
    for folder in list(sizes):
        if sum(sizes.values()) <= budget:
            return
        # Another session may have it open.
        with suppress(OSError):
            for path in folder.iterdir():
                path.unlink()
            os.rmdir(folder)
            del sizes[folder]


def _last_used(folder: Path) -> float:
    return folder.stat().st_mtime
