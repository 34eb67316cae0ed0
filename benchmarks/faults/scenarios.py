"""What is run under faults: what the nodes do with files, in one process, with a tiny model and real encoders."""

import gc
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from spooled_video import CPU, PLAN, STATE_BYTES, Sampling, latents_of, random_conditions, settings
from torch import Tensor

from benchmarks.faults.comfyui import node_module, on_progress, use_folders
from liveavatar_runtime.audio.disk_backed import zeros
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.known_hashes import Hashed
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, write_online
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.script import Script
from liveavatar_runtime.spool.chain import chain_of
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage, clip_bytes
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings
from liveavatar_runtime.spool.store import SpoolStore
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

VIDEO = replace(PLAN, num_clip=3, fps=Fraction(16))
SHORT = replace(VIDEO, num_clip=2)
RATE = 48000
KEY, OTHER_KEY = "5ab1e00d" * 4, "0ddfeed0" * 4
GIB = 2**30
TEXTS = {"prompt": "{}"}
HIDDEN = SimpleNamespace(unique_id="1", prompt={}, extra_pnginfo=None)
"""What ComfyUI tells a node of its run."""
NAMES = ("part 1", "part 2")


@dataclass(frozen=True)
class Place:
    """The folders of one run, below `root`, as ComfyUI has them.

    `progress` hears how many frames are written. `prepared`: what `root` is a copy of; nobody watches it.
    """

    root: Path
    progress: Callable[[int], None] = lambda frames: None
    prepared: Path = Path()

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def temp(self) -> Path:
        return self.root / "temp"

    @property
    def store(self) -> SpoolStore:
        return SpoolStore(self.root / "user" / "__liveavatar_spools")

    def use(self) -> ModuleType:
        """Tell ComfyUI; returns comfy_bridge/output_files."""
        use_folders(self.output, self.temp, self.root / "user")
        on_progress(self.progress)
        return node_module("output_files")

    def make(self) -> None:
        for folder in (self.output, self.temp, self.root / "user"):
            folder.mkdir(parents=True, exist_ok=True)


class RememberedFrames:
    """A decoder whose frames were decoded before: decoding touches no file and would be most of the time."""

    def __init__(self, plan: ClipPlan, latents: Tensor) -> None:
        torch.manual_seed(0)
        vae = WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)
        blocks = latents.split(3, dim=1)
        decoder = OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), history(), "hold")
        self._frames = {digest(block): decoder.decode(block) for block in blocks}

    def decode(self, latents: Tensor) -> Tensor:
        return self._frames[digest(latents)]


@dataclass
class Parts:
    """What is made once, before the first fork."""

    sampling: Sampling
    decoder: RememberedFrames
    audio: AvatarAudio

    @classmethod
    def make(cls) -> "Parts":
        sampling = Sampling()
        with tempfile.TemporaryDirectory() as folder:
            latents = latents_of(LatentStream(VIDEO, history(), sampling, Storage(Spool(Path(folder) / "spool"))))
        samples = int(VIDEO.duration * RATE)
        sound = 0.3 * torch.sin(torch.arange(samples) / 20)[None]
        audio = AvatarAudio(torch.zeros(1, 1, 10, 4), sound, RATE)
        return cls(sampling, RememberedFrames(VIDEO, latents), audio)


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes what is there before; `run` works under faults and returns what must be the same again.

    `exact`: whether the latents after a break are those of an undisturbed run. `grows`: its video plays while it grows.
    """

    name: str
    run: Callable[[Parts, Place], dict[str, Any]]
    prepare: Callable[[Parts, Place], None] = lambda parts, place: None
    exact: bool = True
    grows: bool = False


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def history() -> Tensor:
    return random_conditions().motion[:, -7:]


def stream_in(parts: Parts, spool: Spool, plan: ClipPlan, states: StateSettings | None = None) -> LatentStream:
    return LatentStream(plan, history(), parts.sampling, Storage(spool, states or settings(2)))


def open_spool(place: Place, plan: ClipPlan, key: str = KEY) -> Spool:
    """As DiT Sampler does it: room is made for what is missing."""
    place.store.remove_left_locks()
    spool = place.store.open(key, {"size": "64x64", "seed": plan.seed})
    needed = (plan.segment.clips.stop - sum(map(spool.has_clip, range(plan.segment.clips.stop)))) * clip_bytes(plan)
    if needed:
        place.store.make_room(key, needed, GIB)
    place.store.check_disk(needed)
    return spool


def sample(parts: Parts, place: Place, plan: ClipPlan = VIDEO, states: StateSettings | None = None) -> dict[str, Any]:
    stream = stream_in(parts, open_spool(place, plan), plan, states)
    latents = latents_of(stream)
    return {"latents": digest(latents), "finished": stream.finished_clips}


def with_older_video(parts: Parts, place: Place) -> None:
    latents_of(stream_in(parts, open_spool(place, SHORT, OTHER_KEY), replace(SHORT, num_clip=1)))


def broken_off(parts: Parts, place: Place) -> None:
    """Interrupted within the third clip; the first one is damaged."""
    spool = open_spool(place, VIDEO)
    stream = stream_in(parts, spool, VIDEO)
    blocks = iter(stream)
    for _ in range(2 * VIDEO.blocks_per_clip + 1):
        next(blocks)
    blocks.close()
    path = spool.folder / "clip-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))


SEGMENTS = replace(VIDEO, segment_clips=1)


def second_segment(parts: Parts, place: Place) -> dict[str, Any]:
    """Reads the end of the first segment for the decoder, goes on from its state."""
    plan = replace(SEGMENTS, segment_index=1)
    stream = stream_in(parts, open_spool(place, plan), plan)
    return {"priming": digest(stream.priming(6)), "latents": digest(latents_of(stream))}


def first_segment(parts: Parts, place: Place) -> None:
    latents_of(stream_in(parts, open_spool(place, SEGMENTS), SEGMENTS))


def go_on(parts: Parts, place: Place, states: StateSettings) -> dict[str, Any]:
    """Two more clips; the four that are there stay as they are."""
    plan = replace(VIDEO, num_clip=6)
    stream = stream_in(parts, open_spool(place, plan), plan, states)
    latents = latents_of(stream)
    return {"kept": digest(latents[:, : latents.shape[1] * 4 // 6]), "finished": stream.finished_clips}


FP8 = StateSettings(STATE_BYTES // 2, STATE_BYTES, fp8=True)


def half_in_fp8(parts: Parts, place: Place) -> None:
    """Enough clips before the break that going on from the state in fp8 is what is chosen."""
    plan = replace(VIDEO, num_clip=4)
    latents_of(stream_in(parts, open_spool(place, plan), plan, FP8))


def go_on_in_fp8(parts: Parts, place: Place) -> dict[str, Any]:
    return go_on(parts, place, FP8)


NO_STATES = StateSettings(STATE_BYTES, 0)


def half_without_states(parts: Parts, place: Place) -> None:
    plan = replace(VIDEO, num_clip=4)
    latents_of(stream_in(parts, open_spool(place, plan), plan, NO_STATES))


def go_on_after_a_warm_up(parts: Parts, place: Place) -> dict[str, Any]:
    return go_on(parts, place, NO_STATES)


def sampled(parts: Parts, place: Place) -> None:
    latents_of(stream_in(parts, open_spool(place, SHORT), SHORT))


def temporary(parts: Parts, place: Place) -> dict[str, Any]:
    """A spool that ends with the prompt."""
    place.store.check_disk(0)
    stream = stream_in(parts, Spool.temporary(place.temp), SHORT)
    found = {"latents": digest(latents_of(stream))}
    del stream
    gc.collect()
    return found


def write_video(parts: Parts, place: Place, extension: str, codec: str) -> dict[str, Any]:
    """As Online VAE Decode does it, one thing after the other."""
    files = place.use()
    stream = stream_in(parts, open_spool(place, SHORT), SHORT)
    hooks = Hooks(lambda done, total: place.progress(done))
    path, name, _ = files.output_file("avatar", 64, 64, extension)
    video, picture = OnlineVideo(path), PictureTrack(64, 64, SHORT.fps, codec)
    with files.claimed(path), VideoWriter(path, picture, AudioTrack(RATE), TEXTS) as writer:
        write_online(
            stream, parts.decoder, parts.audio, Output(writer, video), WriteOptions(hooks=hooks, overlap=False)
        )
    return {"frames": video.frames, "file": name}


def online_decode(parts: Parts, place: Place) -> dict[str, Any]:
    """What Online VAE Decode itself calls: sampling, decoding and encoding at the same time, in three threads."""
    files, node = place.use(), node_module("video_output")
    latents = node_module("avatar").AvatarLatents(stream_in(parts, open_spool(place, SHORT), SHORT), parts.audio)
    # Its report has other numbers in every run.
    chosen = node.VideoSettings("avatar", "h264", "auto", 18, "hold", False, "comfyui", report=False)
    file = files.output_file("avatar", 64, 64, "mp4")
    video = OnlineVideo(file.path)
    reporting = node_module("run_report").Reporting(latents, chosen, file, video)
    with files.claimed(file.path):
        node.write_blocks(reporting, lambda start: nullcontext(parts.decoder), HIDDEN)
    return {"frames": video.frames, "file": file.name}


def branch(parts: Parts, place: Place) -> dict[str, Any]:
    """Another take of the second clip, which goes on from the state before it, and the first one again."""
    plan = replace(SHORT, script=Script().with_seed(SHORT.blocks_per_clip, 7))
    spool = open_spool(place, SHORT)
    taken = spool.with_chain(chain_of(plan, random_conditions()))
    latents = [latents_of(stream_in(parts, one, of)) for one, of in ((taken, plan), (spool, SHORT))]
    # The file of its marks is looked for among what the run leaves; reading it here would be nobody's call.
    return {"latents": [digest(of) for of in latents]}


def two_parts(parts: Parts, place: Place) -> None:
    sampled(parts, place)
    for number in (1, 2):
        write_video(parts, place, "mp4", "h264")
        os.replace(place.output / "avatar_00001_.mp4", place.root / f"part_{number}.mp4")


def joined(parts: Parts, place: Place, reencode: bool = False) -> dict[str, Any]:
    """Join Segments itself; one part is a file, the other is in memory and is saved to the temporary folder first."""
    place.use()
    from comfy_api.latest import InputImpl

    in_memory = io.BytesIO((place.prepared / "part_2.mp4").read_bytes())
    videos = [InputImpl.VideoFromFile(source) for source in (str(place.root / "part_1.mp4"), in_memory)]
    node = node_module("video_join")
    chosen = node.JoinSettings("avatar", reencode, None)
    file = node.join_videos(list(zip(NAMES, videos, strict=True)), chosen, HIDDEN, node_module("notes").Notes())
    return {"file": file.name}


def clear(parts: Parts, place: Place) -> dict[str, Any]:
    """Room is made for another video, then Finished Clips clears what is left."""
    place.use()
    node = node_module("spools")
    place.store.make_room("another", 0, place.store.spools()[0].size if place.store.spools() else 0)
    text = node.report(node.store(), node.CLEAR, 0)
    return {"unsaid": [info.key for info in place.store.spools() if f"{info.key} could not be removed: " not in text]}


def two_videos(parts: Parts, place: Place) -> None:
    sampled(parts, place)
    with_older_video(parts, place)


def voice(parts: Parts, place: Place) -> dict[str, Any]:
    """The features of a long voice are mapped from a temporary file."""
    features = zeros((4, 1024), torch.float32, place.temp, in_memory=0)
    features += torch.arange(1024)
    return {"features": digest(features)}


def weights(parts: Parts, place: Place) -> None:
    """A file that was not changed lately; outside of what is watched."""
    path = place.root / "weights"
    path.write_bytes(bytes(range(256)))
    os.utime(path, (0, 0))


def remembered(parts: Parts, place: Place) -> dict[str, Any]:
    """What was found in a weight file is remembered beside the spools, and found there."""
    place.use()
    known, path = node_module("folders").known_hashes(), place.prepared / "weights"
    compute = partial(Hashed, hashlib.sha256(path.read_bytes()).hexdigest())
    return {"first": known.of("it", [path], compute).digest, "again": known.of("it", [path], compute).digest}


SCENARIOS = (
    Scenario("sample", sample, with_older_video),
    Scenario("go on", sample, broken_off),
    Scenario("segment", second_segment, first_segment),
    Scenario("branch", branch, sampled),
    Scenario("go on in fp8", go_on_in_fp8, half_in_fp8, exact=False),
    Scenario("go on after a warm-up", go_on_after_a_warm_up, half_without_states, exact=False),
    Scenario("temporary spool", temporary),
    Scenario("mp4", lambda parts, place: write_video(parts, place, "mp4", "h264"), sampled, grows=True),
    Scenario("ffv1", lambda parts, place: write_video(parts, place, "mkv", "ffv1"), sampled, grows=True),
    Scenario("vp9", lambda parts, place: write_video(parts, place, "webm", "vp9"), sampled, grows=True),
    Scenario("online decode", online_decode, grows=True),
    Scenario("join", joined, two_parts),
    Scenario("join, encoded again", lambda parts, place: joined(parts, place, reencode=True), two_parts),
    Scenario("clear", clear, two_videos),
    Scenario("voice", voice),
    Scenario("remembered hashes", remembered, weights),
)
