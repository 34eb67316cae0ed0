"""A rank of the workers that decodes: the same frames bit for bit, while the others sample, and how it ends."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from failing_worker import HANGS_ON, RAISES_ON
from media_files import video_writer
from safetensors.torch import save_file
from test_online_video import voice
from tiny_avatar import PLAN, random_conditions
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from worker_group import FAILING, local_workers, save_model

from liveavatar_runtime.checkpoint.weights_key import vae_keys
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, write_online
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE
from liveavatar_runtime.vae.online_decoder import OnlineDecoder, VideoStart
from liveavatar_workers.client.decoder import RemoteDecoder
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import LocalWorkers
from liveavatar_workers.keys import CLIENTS_VARIABLE, KEY_VARIABLE, KeyPair
from liveavatar_workers.rank.ranks import Rank, StallDetector
from liveavatar_workers.rank.worker import open_connection, parse

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
EXECUTORS = ("fsdp", "layer_pipeline", "timestep_pipeline")
LIMIT = 60.0
"""Seconds in which a failure must be told."""


def latents(seed: int, frames: int = 3) -> Tensor:
    return torch.randn(16, frames, 8, 8, generator=torch.Generator().manual_seed(seed))


PRIMING = latents(-1, 7)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vae: WanVAE) -> Path:
    folder = save_model(tmp_path_factory.mktemp("model"))
    save_file({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, folder / "vae.safetensors")
    return folder


@pytest.fixture(scope="module")
def groups(folder: Path) -> Iterator[Callable[[str], LocalWorkers]]:
    """A group of two ranks that sample and one that decodes for each executor, started when it is first used."""
    made: dict[str, LocalWorkers] = {}

    def group(executor: str) -> LocalWorkers:
        if executor not in made:
            arguments = ("--executor", executor, "--vae", str(folder / "vae.safetensors"), "--stall-timeout", "3")
            made[executor] = local_workers(folder, 3, *arguments, program=FAILING)
        return made[executor]

    yield group
    for workers in made.values():
        workers.close()


def local_decoder(vae: WanVAE, start: VideoStart | None = "hold") -> OnlineDecoder:
    return OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), PRIMING, start)


def stream_of(workers: LocalWorkers) -> LatentStream:
    executor = RemoteExecutor(workers)
    return LatentStream(
        PLAN,
        PRIMING,
        lambda plan, first, rings: executor.run(SamplingRequest(random_conditions(), plan, first, None, rings)),
    )


def write(path: Path, stream: LatentStream, decoder: OnlineDecoder | RemoteDecoder, check=lambda: None) -> OnlineVideo:
    video = OnlineVideo(path)
    with video_writer(path, PLAN.width, PLAN.height, PLAN.fps, 48000) as writer:
        write_online(
            stream,
            decoder,
            voice(PLAN),
            Output(writer, video),
            WriteOptions(keep_frames=True, hooks=Hooks(check=check)),
        )
    return video


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_video_that_is_decoded_while_it_is_sampled_is_the_same(groups, vae, tmp_path, executor) -> None:
    workers = groups(executor)
    stream = stream_of(workers)
    far = write(tmp_path / "far.mp4", stream, RemoteDecoder(workers, PRIMING, "hold", torch.float32))
    near = write(tmp_path / "near.mp4", stream, local_decoder(vae))
    assert far.frames == near.frames == PLAN.frames
    assert far.kept is not None and near.kept is not None and torch.equal(far.kept, near.kept)
    assert (tmp_path / "far.mp4").read_bytes() == (tmp_path / "near.mp4").read_bytes()
    facts = workers.decoder(lambda: None, True)
    assert facts is not None and facts.rank == 2 and facts.keys == vae_keys(vae.state_dict())
    assert len(workers.connection(lambda: None).about.ranks) == 2


@pytest.mark.parametrize("start", ["hold", "trim", None])
def test_every_start_of_a_video(groups, vae, start) -> None:
    decoder, expected = RemoteDecoder(groups("fsdp"), PRIMING, start, torch.float32), local_decoder(vae, start)
    for seed in range(2):
        assert torch.equal(decoder.decode(latents(seed)), expected.decode(latents(seed)))
    decoder.close()


def test_other_dtypes_lose_nothing_on_the_way_and_leave_nothing_behind(groups, vae, folder) -> None:
    from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
    from liveavatar_runtime.vae import load_wan_vae

    half = load_wan_vae(read_weight_file(folder / "vae.safetensors")[0], dtype=torch.bfloat16)
    expected = OnlineDecoder(PlacedVAE(half, CPU, torch.bfloat16), PRIMING, "hold").decode(latents(0))
    assert torch.equal(RemoteDecoder(groups("fsdp"), PRIMING, "hold", torch.bfloat16).decode(latents(0)), expected)
    again = RemoteDecoder(groups("fsdp"), PRIMING, "hold", torch.float32)
    assert torch.equal(again.decode(latents(0)), local_decoder(vae).decode(latents(0)))


def test_a_session_that_is_given_up_leaves_nothing_for_the_next(groups, vae) -> None:
    workers = groups("fsdp")
    given_up = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    asked = [given_up.ask(latents(seed)) for seed in range(3)]
    given_up.take(asked[0])
    following = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    given_up.close()
    expected = local_decoder(vae)
    for seed in range(5, 8):
        assert torch.equal(following.decode(latents(seed)), expected.decode(latents(seed)))
    with pytest.raises(MachineError, match="or another one is; start it again"):
        given_up.take(asked[1])


def test_an_interruption_while_blocks_are_under_way(groups, vae, tmp_path) -> None:
    workers = groups("layer_pipeline")

    class Stop(Exception):
        pass

    def check() -> None:
        if written.exists() and written.stat().st_size > 3000:
            raise Stop

    written = tmp_path / "stopped.mp4"
    stream = stream_of(workers)
    decoder = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    begin = time.monotonic()
    with pytest.raises(Stop):
        write(written, stream, decoder, check)
    decoder.close()
    assert time.monotonic() - begin < LIMIT
    far = write(tmp_path / "far.mp4", stream, RemoteDecoder(workers, PRIMING, "hold", torch.float32))
    near = write(tmp_path / "near.mp4", stream, local_decoder(vae))
    assert far.kept is not None and near.kept is not None and torch.equal(far.kept, near.kept)


def test_an_interruption_does_not_wait_for_frames_that_do_not_come(groups, tmp_path) -> None:
    workers = groups("timestep_pipeline")

    class Silent(RemoteDecoder):
        def ask(self, latents: Tensor) -> int:
            asked.append(latents)
            return 0

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    asked: list[Tensor] = []
    decoder = Silent(workers, PRIMING, "hold", torch.float32)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "stopped.mp4", stream_of(workers), decoder, check)
    assert time.monotonic() - begin < LIMIT


def test_wrong_latents_are_refused_and_the_rank_goes_on(groups, vae) -> None:
    workers = groups("fsdp")
    pid = workers.pid
    for wrong, message in ((latents(0)[:, :, :4], "all parts of a video have one size"), (latents(0)[0], "must be")):
        decoder = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
        with pytest.raises(InputError, match=message):
            decoder.decode(wrong)
    with pytest.raises(InputError, match=r"dtype 'int64'"):
        RemoteDecoder(workers, PRIMING, "hold", torch.int64).take(0)
    right = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    assert torch.equal(right.decode(latents(0)), local_decoder(vae).decode(latents(0)))
    assert workers.pid == pid


def decoding_process(workers: LocalWorkers) -> psutil.Process:
    assert workers.pid is not None
    ranks = psutil.Process(workers.pid).children(recursive=True)
    (found,) = [process for process in ranks if process.environ().get("RANK") == "2"]
    return found


def test_a_decoding_rank_that_is_killed_ends_the_run_and_the_next_one_works(groups, vae, tmp_path) -> None:
    workers = groups("layer_pipeline")
    done: list[float] = []

    def check() -> None:
        if not done and (tmp_path / "dies.mp4").exists():
            decoding_process(workers).kill()
            done.append(time.monotonic())

    stream = stream_of(workers)
    decoder = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    with pytest.raises(MachineError, match=r"rank 2 was killed \(SIGKILL\)"):
        write(tmp_path / "dies.mp4", stream, decoder, check)
    assert time.monotonic() - done[0] < LIMIT
    far = write(tmp_path / "far.mp4", stream, RemoteDecoder(workers, PRIMING, "hold", torch.float32))
    near = write(tmp_path / "near.mp4", stream, local_decoder(vae))
    assert far.kept is not None and near.kept is not None and torch.equal(far.kept, near.kept)


@pytest.mark.parametrize(
    ("executor", "value", "reason"),
    [
        pytest.param("layer_pipeline", RAISES_ON, "ValueError: the latents are rotten{}failing_worker.py", id="raises"),
        pytest.param("timestep_pipeline", HANGS_ON, r"made no progress for 3.0 s{}time.sleep\(1000\)", id="hangs"),
        pytest.param("fsdp", None, "nothing was heard of it for 6 s", id="stopped"),
    ],
)
def test_a_decoding_rank_that_fails_is_told_with_its_place(groups, executor, value, reason) -> None:
    workers = groups(executor)
    decoder = RemoteDecoder(workers, PRIMING, "hold", torch.float32)
    decoder.decode(latents(0))
    if value is None:
        decoding_process(workers).send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(MachineError, match=rf"rank 2 .*{reason}".format(r"[\s\S]*")):
        decoder.decode(latents(0) if value is None else torch.full_like(latents(0), value))
    assert time.monotonic() - begin < LIMIT
    assert workers.pid is None


def test_a_vae_that_is_not_there_is_named(start_workers, folder) -> None:
    group = start_workers(folder, 2, "--vae", str(folder / "nowhere.safetensors"))
    with pytest.raises(MachineError, match=r"rank 1 .*nowhere.safetensors does not exist"):
        group.connection(lambda: None)


def test_a_vae_needs_a_rank_beside_those_that_sample(monkeypatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KeyPair.new().secret.hex())
    monkeypatch.setenv(CLIENTS_VARIABLE, KeyPair.new().public.hex())
    rank = Rank(0, 0, CPU, HashStore(), StallDetector(), decoders=1)
    with pytest.raises(InputError, match="start one more rank"):
        open_connection(parse(["--model", "m", "--vae", "v"]), rank)


def test_one_file_has_one_key_for_each_dtype_that_it_is_loaded_in(vae) -> None:
    weights = vae.state_dict()
    keys = vae_keys(weights)
    for name in ("bfloat16", "float16"):
        loaded = {key: tensor.to(getattr(torch, name)) for key, tensor in weights.items()}
        assert vae_keys(loaded)[name] == keys[name]
    other = {key: tensor + 0.01 for key, tensor in weights.items()}
    assert len({*keys.values(), *vae_keys(other).values()}) == 6
