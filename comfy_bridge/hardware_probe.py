"""Hardware Probe at work: a short video, made as any other, and what it tells of a machine.

Guides to this model advise it as the first step: ten clips of a small size in three steps. What it needs beside the
model is made here, always the same; nothing of it is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.errors import MachineError, handled
from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.sampling.plan import ClipPlan

from .attention import COMFYUI_ATTENTION
from .avatar import AvatarModel
from .comfy_types import Hidden, Vae
from .decoder_choice import AUTO, choose_decoder, managed_decoder, open_decoder
from .execution import SamplerInputs, SamplerSettings, prepare_latents
from .folders import PACK_ROOT, temporary_folder
from .live.latents import recorded
from .notes import Notes
from .output_files import OutputFile
from .probe_verdicts import tell_links, tell_memory, tell_run
from .progress import show_text
from .run_report import Reporting
from .spool_folder import TEMPORARY, SpoolChoice
from .video_output import VideoSettings, write_blocks

if TYPE_CHECKING:
    from liveavatar_runtime.audio.features import AvatarAudio
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.planning.links import Link
    from liveavatar_runtime.run_report import RunReport

SEED = 420
SOUND_RATE = 16000
FEATURE_RATE = 50
NAME = "probe.mp4"


@dataclass(frozen=True, eq=False)
class ProbeInputs:
    """What is connected to Hardware Probe; what is None is made."""

    model: AvatarModel
    vae: Vae | None
    positive: object = None
    image: object = None
    voice: "Voice | None" = None


@dataclass(frozen=True)
class ProbeSize:
    """Hardware Probe's widgets."""

    num_clip: int
    width: int
    height: int
    infer_frames: int
    steps: int

    def plan(self, model: AvatarModel, notes: Notes) -> ClipPlan:
        """For a model that knows one size only, of that size."""
        width, height = model.made_for or (self.width, self.height)
        if (width, height) != (self.width, self.height):
            notes.tell(f"This model only knows {width}x{height} pixels, so that size is tried instead")
        return ClipPlan(
            num_clip=self.num_clip,
            infer_frames=self.infer_frames,
            width=width,
            height=height,
            steps=self.steps,
            seed=SEED,
            keep_aspect=False,
        )


@dataclass(eq=False)
class Probed:
    """What was found out. refusal: why it does not run, "" if it does. planned: bytes on each device, by name."""

    links: "list[Link]" = field(default_factory=list)
    refusal: str = ""
    report: "RunReport | None" = None
    planned: Mapping[str, float] = field(default_factory=dict)
    markdown: str = ""


def probe(inputs: ProbeInputs, size: ProbeSize, hidden: Hidden, notes: Notes) -> str:
    """The report in Markdown; the notes have the verdicts. Raises InputError for what was given."""
    from liveavatar_runtime.planning.links import links_of

    plan = size.plan(inputs.model, notes)
    model = inputs.model
    found = Probed()
    show_text(hidden.unique_id, "Timing copies between RAM and the cards")
    with handled(MachineError, lambda error: setattr(found, "refusal", str(error))):
        found.links = links_of(model.devices_here if model.workers is None else ())
        _run(inputs, plan, hidden, found)
    _tell(found, notes)
    return "\n".join(["# Hardware Probe", "", *(f"- {line}" for line in notes.lines), "", found.markdown])


def _tell(found: Probed, notes: Notes) -> None:
    from liveavatar_runtime.planning.links import has_nccl

    if found.refusal:
        notes.warn(f"It does not run: {found.refusal}")
    if found.report is not None:
        notes.warn(*found.report.warnings)
        tell_run(found.report, notes)
        tell_memory(found.report.peaks, found.planned, notes)
    tell_links(found.links, has_nccl(), notes)


def _run(inputs: ProbeInputs, plan: ClipPlan, hidden: Hidden, found: Probed) -> None:
    """Sample, decode and encode all of the plan into a file that is removed again."""
    from liveavatar_runtime.online_video import OnlineVideo

    given = completed(inputs, plan)
    caches = SamplerSettings(CacheChoice(), COMFYUI_ATTENTION, False, SpoolChoice(TEMPORARY, state_budget=0.0))
    # Of the notes only those count that are told while it runs: nobody chose this picture and this voice.
    latents = recorded(prepare_latents(given, caches, hidden, Notes()))
    decoder = choose_decoder(AUTO, latents, managed_decoder(inputs.vae))
    settings = VideoSettings(NAME, "h264", "auto", 18, "hold", return_frames=False, decoder=AUTO, report=False)
    with temporary_folder() as folder:
        file = OutputFile(folder / NAME, NAME, "")
        reporting = Reporting(latents, settings, file, OnlineVideo(file.path), decoder.told)
        write_blocks(
            reporting, lambda start: open_decoder(decoder, latents.stream, start, hidden.unique_id), hidden, shown=False
        )
    found.report, found.markdown = reporting.report, reporting.markdown
    found.planned = latents.report.facts.foreseen.memory if latents.report is not None else {}


def completed(inputs: ProbeInputs, plan: ClipPlan) -> SamplerInputs:
    """With a picture, a voice that covers the plan, and a prompt where none is connected; the same every time."""
    return SamplerInputs(
        inputs.model,
        inputs.positive if inputs.positive is not None else made_prompt(inputs.model),
        inputs.vae,
        inputs.image if inputs.image is not None else made_picture(),
        inputs.voice if inputs.voice is not None else made_voice(inputs.model, plan),
        plan,
    )


def made_prompt(model: AvatarModel) -> object:
    """A CONDITIONING of noise: what it says decides nothing of what is measured."""
    config = model.config
    return [[_noise((1, config.text_len, config.text_dim)), {}]]


def made_picture() -> torch.Tensor:
    """The demo's portrait, [1, H, W, 3] 0..1."""
    from numpy import asarray
    from PIL import Image

    with Image.open(PACK_ROOT / "demo" / "portrait.png") as picture:
        return torch.from_numpy(asarray(picture.convert("RGB")).copy())[None].float() / 255


def made_voice(model: AvatarModel, plan: ClipPlan) -> "AvatarAudio":
    """Noise as long as the plan, heard and encoded."""
    from liveavatar_runtime.audio.features import AvatarAudio

    seconds, config = float(plan.duration) + 1, model.config
    features = _noise((1, config.audio_layers, int(seconds * FEATURE_RATE), config.audio_dim))
    return AvatarAudio(features, 0.05 * _noise((1, int(seconds * SOUND_RATE))), SOUND_RATE)


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
