"""Work whose allocations really fail: a limit on this process's memory is set just above what it has.

Prints JSON: {work: [classes of the error, its text]}.
"""

import json
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import torch
from media_files import video_writer
from tiny_avatar import PLAN, random_conditions, random_model

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.online_video import OnlineVideo, Output, WriteOptions, write_online
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.prepare import encode_picture
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CPU = torch.device("cpu")
SPARE = 96 * 2**20
LARGE = replace(PLAN, width=2048, height=2048, num_clip=1)


def limited(work: Callable[[], object]) -> tuple[list[str], str]:
    """The error of work that finds no room."""
    limit = psutil.Process().memory_info().vms + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        work()
    except BaseException as error:
        return [kind.__name__ for kind in type(error).__mro__], str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return [], "it found room"


def sampled(executor: LocalExecutor | LayerPipelineExecutor | TimestepPipelineExecutor) -> Callable[[], object]:
    conditions = random_conditions(plan=LARGE)
    return lambda: next(executor.run(SamplingRequest(conditions, LARGE)))


def keep_frames(folder: str) -> None:
    audio = AvatarAudio(torch.zeros(1, 1, 10, 4), torch.zeros(1, 100), 48000)
    path = Path(folder) / "a.mp4"

    class Stream:
        plan = LARGE

    with video_writer(path, 64, 64, Fraction(16)) as writer:
        # Nothing else of them is asked for before the frames have room.
        write_online(Stream(), None, audio, Output(writer, OnlineVideo(path)), WriteOptions(keep_frames=True))  # pyright: ignore


def main() -> None:
    torch.set_num_threads(1)
    model, layers = random_model(), split_evenly(5, 2)
    parts = spread_layers(model, layers, [CPU] * 2)
    vae = WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)
    latents = torch.zeros(16, 3, 256, 256)
    picture = torch.rand(2048, 2048, 3)
    work: dict[str, Callable[[], object]] = {
        "local": sampled(LocalExecutor(model, CPU, torch.float32)),
        "layer pipeline": sampled(LayerPipelineExecutor(parts, layers, torch.float32)),
        "timestep pipeline": sampled(TimestepPipelineExecutor(replicate(model, [CPU] * 2), torch.float32)),
        "decoding": lambda: OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), latents, None),
        "encoding": lambda: encode_picture(PlacedVAE(vae, CPU, torch.float32), picture, LARGE, 19),
    }
    with tempfile.TemporaryDirectory() as folder:
        work["frames"] = lambda: keep_frames(folder)
        # Its libraries are mapped before there is no room for them.
        with video_writer(Path(folder) / "first.mp4", 64, 64, Fraction(16)):
            pass
        print(json.dumps({name: limited(call) for name, call in work.items()}))


if __name__ == "__main__":
    main()
