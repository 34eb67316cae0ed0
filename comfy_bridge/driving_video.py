"""pose_video of DiT Sampler: a VIDEO or a batch of pictures becomes what drives the video, and what is said of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from liveavatar_runtime.checkpoint.known_hashes import Hashed
from liveavatar_runtime.duration import format_duration, format_fps, format_time
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.fingerprint import CHUNK_BYTES, Fingerprint
from liveavatar_runtime.reading import readable
from liveavatar_runtime.sampling.run import LatentBlock, SamplingRun

from .decoder_choice import key_of
from .folders import known_hashes
from .notes import Notes

if TYPE_CHECKING:
    from liveavatar_runtime.media.driving_video import DrivingPictures, FilePictures, PicturesInMemory, VideoPart
    from liveavatar_runtime.sampling.driven_pose import DrivenPose, DrivingVideo
    from liveavatar_runtime.sampling.plan import ClipPlan

    from .avatar import AvatarModel
    from .comfy_types import Video
    from .vae import ManagedVAE

PoseEnd = Literal["hold", "loop"]
ALPHA = "pose_video is transparent in parts; black is laid behind them."
FORMAT = 1
"""Raised when the same driving video begins to give other latents."""


@dataclass(frozen=True, eq=False)
class PoseInput:
    """What is connected to pose_video, if anything, and pose_end."""

    given: object = None
    end: PoseEnd = "hold"


def read_driving_video(pose: PoseInput, plan: "ClipPlan", notes: Notes) -> "DrivingVideo | None":
    """What drives a plan's video; the notes say how long it does. None where nothing is connected.

    Raises InputError for what cannot drive it: a file that cannot be read or has no frames, pictures that are none.
    """
    from liveavatar_runtime.media.driving_video import FilePictures, PicturesInMemory
    from liveavatar_runtime.sampling.driven_pose import DrivingVideo

    if pose.given is None:
        return None
    if isinstance(pose.given, Tensor):
        pictures: DrivingPictures = PicturesInMemory(pose.given, plan.fps)
        content = _key_of_pictures(pose.given)
        notes.tell(f"pose_video: {len(pose.given)} pictures, one for each frame")
    elif isinstance(pose.given, InputImpl.VideoFromFile):
        part = part_of(pose.given)
        pictures = FilePictures(part)
        content = _key_of_file(part)
        notes.tell(_about_file(pictures))
    else:
        pictures, content = _read_components(pose.given, notes)
    notes.warn(ALPHA if pictures.has_alpha else "")
    _tell_length(pictures, plan, pose.end, notes)
    key = Fingerprint().add("format", FORMAT).add("content", content).add("end", pose.end)
    return DrivingVideo(pictures, pose.end == "loop", key.hexdigest())


def pose_of(video: "DrivingVideo", plan: "ClipPlan", vae: "ManagedVAE") -> "tuple[DrivenPose, str]":
    """The pose for the conditions of a plan, encoded by a VAE that is on its device, and its key."""
    from liveavatar_runtime.sampling.driven_pose import DrivenPose

    key = Fingerprint().add("video", video.key).add("vae", key_of(vae)).hexdigest()
    return DrivenPose(video, plan, vae.on_device()), key


def part_of(video: "Video") -> "VideoPart":
    """The file of a VIDEO, and which part of it is meant."""
    from liveavatar_runtime.media.driving_video import VideoPart

    source = video.get_stream_source()
    start, duration = _window(video)
    return VideoPart(Path(source) if isinstance(source, str) else source.getvalue(), start, duration)


def _window(video: "Video") -> tuple[float, float]:
    """Seconds at which a VIDEO begins in its file, and how many it takes, 0 up to the end."""
    told = getattr(video, "get_active_trim_window", None)
    if told is not None:
        start, duration = told()
        return float(start), float(duration)
    # Before ComfyUI 0.30 only the object itself knows.
    start, duration = (getattr(video, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration"))
    return float(start), float(duration)


def _read_components(given: object, notes: Notes) -> "tuple[PicturesInMemory, str]":
    """Of a VIDEO that is in memory. Raises InputError for anything else."""
    from liveavatar_runtime.media.driving_video import PicturesInMemory

    components = getattr(given, "get_components", None)
    if components is None:
        raise InputError(
            f"pose_video is a {type(given).__name__}; allowed are a VIDEO, as of Load Video, and an IMAGE batch."
        )
    parts = components()
    if not parts.frame_rate or parts.frame_rate < 0:
        raise InputError(f"pose_video has {parts.frame_rate} frames a second. Set its fps where it is made.")
    pictures = PicturesInMemory(parts.images, parts.frame_rate)
    notes.tell(f"pose_video: {len(parts.images)} pictures at {format_fps(parts.frame_rate)} frames a second")
    return pictures, Fingerprint().add("rate", parts.frame_rate).add("pictures", parts.images).hexdigest()


def _key_of_pictures(pictures: Tensor) -> str:
    return Fingerprint().add("pictures", pictures).hexdigest()


def _key_of_file(part: "VideoPart") -> str:
    """Of all bytes, read once for each file, and of the part that is meant."""
    source = part.source
    if isinstance(source, bytes):
        digest = hashlib.sha256(source).hexdigest()
    else:
        digest = known_hashes().of(["pose_video"], [source], lambda: Hashed(_digest(source))).digest
    return Fingerprint().add("file", digest).add("part", [part.start, part.duration]).hexdigest()


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with readable(path, "a video"), path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            found.update(piece)
    return found.hexdigest()


def _about_file(pictures: "FilePictures") -> str:
    line, frame = pictures.timeline, pictures.about
    rate = f" at {format_fps(line.rate)} frames a second" if line.rate else ""
    return f"pose_video: {frame.width}x{frame.height}, {format_duration(line.length)}{rate}"


def _tell_length(pictures: "DrivingPictures", plan: "ClipPlan", end: PoseEnd, notes: Notes) -> None:
    """What is not used of a driving video, or what drives the rest of the video."""
    length, wanted = pictures.length, plan.frames / plan.fps
    if length > wanted:
        notes.tell(f"pose_video is longer than the video: what comes after {format_time(wanted)} is not used")
    elif length < wanted and end == "hold":
        notes.warn(f"pose_video ends before the video: from {format_time(length)} on its last picture stays (hold).")
    elif length < wanted:
        notes.tell(f"pose_video is shorter than the video: it begins again at {format_time(length)} (loop)")


def check_pose_encoder(model: "AvatarModel") -> str:
    """What to say where a model's weights for the pose are all 0; empty for others, and for those of workers."""
    if model.loaded is None:
        return ""
    weight = cast(Tensor, model.patcher.get_model_object("diffusion_model").get_submodule("cond_encoder").weight)
    if weight.is_meta or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16) or bool(weight.any()):
        return ""
    return "This model's weights for the pose (cond_encoder) are all 0: pose_video changes nothing."


@dataclass(frozen=True, eq=False)
class DrivenRun:
    """A run that is driven: with it the file of its driving video is closed."""

    run: SamplingRun
    pose: "DrivenPose"

    def __iter__(self) -> "DrivenRun":
        return self

    def __next__(self) -> LatentBlock:
        return next(self.run)

    def rings(self) -> dict[str, Tensor] | None:
        return self.run.rings()

    def close(self) -> None:
        self.run.close()
        self.pose.close()
