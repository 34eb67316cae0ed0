"""A job that DiT Sampler has prepared, with what each of its runs needs."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import KeepRings, RunStart, SamplingRequest, SamplingRun

from .attention_choice import ChosenAttention
from .driving_video import DrivenRun
from .executor_choice import ChosenExecutor
from .executors import executor_of
from .progress import SamplingProgress
from .sampling_job import SamplingJob

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.sampling.driven_pose import DrivenPose
    from liveavatar_runtime.sampling.prepare import Prepared
    from liveavatar_runtime.sampling.video_key import Numerics

    from .sampling_report import SamplingReport


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A job with what each of its runs needs; `numerics`: how it computes, for the key of its video; `picture`: what
    the video begins with; `voice`: what it hears; `pose`: that of its conditions."""

    job: SamplingJob
    executor: ChosenExecutor
    attention: ChosenAttention
    compile_layers: bool
    prepared: "Prepared"
    numerics: "Numerics"
    picture: Tensor
    voice: "Voice"
    pose: "DrivenPose | None" = None

    def start(self, part: ClipPlan, first: RunStart, keep_rings: KeepRings, report: "SamplingReport") -> SamplingRun:
        """Begin to sample a part of the plan; its steps and previews are shown on the node."""
        meter = report.meter(part)
        executor = executor_of(replace(self.job, plan=part), self.executor, self.attention.kernel, self.compile_layers)
        progress = SamplingProgress(
            report.node_id, part, self.job.vae.colours, lambda evaluation: report.show(meter.after(evaluation))
        )
        return self.driven(executor.run(SamplingRequest(self.prepared.conditions, part, first, progress, keep_rings)))

    def driven(self, run: SamplingRun) -> SamplingRun:
        """A run with the pose that it asks for, where there is one."""
        if self.pose is None:
            return run
        if self.job.model.workers is not None:
            # What made room for them on their devices has taken the VAE away too.
            self.job.vae.on_device()
        return DrivenRun(run, self.pose)
