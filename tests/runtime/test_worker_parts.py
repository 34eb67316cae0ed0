"""What workers are made of, without processes: devices, reasons, and the notice of a hang."""

import signal
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import msgspec
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from test_gguf import demo_file
from tiny_avatar import CONFIG
from torch._C._distributed_c10d import FileStore, HashStore
from worker_group import save_at, save_model

from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.checkpoint.weights_key import weights_key
from liveavatar_runtime.devices import parse_devices
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.table import check_devices, resolve
from liveavatar_workers.client.create import ModelFiles, dtype_in_workers, local_workers
from liveavatar_workers.failures import AGAIN, Ended, describe
from liveavatar_workers.messages import Failure
from liveavatar_workers.rank import launch, ranks
from liveavatar_workers.rank.ranks import OtherRankLost, StallDetector, is_about_another_rank

CPU = torch.device("cpu")
Q8_0, Q4_0 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0


def test_devices_as_a_user_writes_them() -> None:
    assert parse_devices("cpu, cpu") == [CPU, CPU]
    assert parse_devices("cpu:0") == [CPU]
    for name in ("cuda:77", "gpu", "cpu:1", "cuda:x", "cuda:-1"):
        with pytest.raises(InputError, match=f"devices names '{name}'; this machine has"):
            parse_devices(name)
    with pytest.raises(InputError, match="allowed are 64"):
        parse_devices(",".join(["cpu"] * 65))


def test_devices_that_an_executor_cannot_use() -> None:
    check_devices("layer_pipeline", [CPU] * CONFIG.num_layers, CONFIG)
    for executor in ("fsdp", "layer_pipeline"):
        with pytest.raises(InputError, match="the model has 5 layers"):
            check_devices(executor, [CPU] * 6, CONFIG)
    with pytest.raises(InputError, match="one device"):
        check_devices("local", [CPU, CPU], CONFIG)
    with pytest.raises(InputError, match="devices of one kind"):
        check_devices("fsdp", [CPU, torch.device("cuda", 0)], CONFIG)
    with pytest.raises(InputError, match="GPU of its own"):
        check_devices("fsdp", [torch.device("cuda", 0)] * 2, CONFIG)
    with pytest.raises(InputError, match="executor is 'magic'"):
        check_devices("magic", [CPU], CONFIG)
    assert [resolve("auto", []), resolve("auto", [CPU, CPU]), resolve("fsdp", [])] == [
        "local",
        "auto",
        "fsdp",
    ]


def test_workers_refuse_quantised_precision(tmp_path) -> None:
    with pytest.raises(InputError, match="precision is fp8_e4m3fn"):
        local_workers("fsdp", [CPU], CONFIG, ModelFiles(tmp_path), "fp8_e4m3fn")


def failure(rank: int, message: str, trace: str = "", consequence: bool = False) -> Failure:
    where = f"cuda:{rank} on host"
    return Failure(rank=rank, where=where, message=message, trace=trace, consequence=consequence)


def test_reasons_name_causes_before_consequences() -> None:
    cause = failure(1, "ValueError: no", "Traceback: cause\n")
    consequence = failure(0, "Connection closed", "Traceback: other", consequence=True)
    killed, terminated, exited = Ended(-signal.SIGKILL), Ended(-signal.SIGTERM), Ended(1)
    text = describe([consequence, cause], {}, "silence")
    assert text == f"The workers ended: rank 1 (cuda:1 on host): ValueError: no.\n{AGAIN}\nTraceback: cause"
    assert "rank 1 was killed (SIGKILL)" in describe([consequence], {1: killed}, "silence")
    assert "rank 0" not in describe([cause], {0: exited}, "silence")
    assert describe([], {1: killed, 0: terminated}, "silence").startswith(
        "The workers ended: rank 1 was killed (SIGKILL)."
    )
    assert "rank 0 exited with code 1" in describe([], {0: exited}, "silence")
    assert "rank 0 was killed (SIGTERM)" in describe([], {0: terminated}, "silence")
    assert "Connection closed" in describe([consequence], {}, "silence")
    assert describe([], {}, "silence").startswith("The workers ended: silence.")


def raised(raise_it: Callable[[], object]) -> Exception:
    try:
        raise_it()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_what_another_rank_is_to_blame_for_is_told_by_where_it_was_raised(tmp_path) -> None:
    """Not by its words: an error of the model that speaks of a closed connection is a cause."""

    def without_the_others() -> None:
        store = FileStore(str(tmp_path / "store"), 2)
        torch.distributed.init_process_group(
            "gloo", store=store, rank=0, world_size=2, timeout=timedelta(milliseconds=100)
        )

    def full() -> None:
        raise torch.OutOfMemoryError("NCCL: Connection closed by gloo")

    def own() -> None:
        raise RuntimeError("Connection closed by NCCL, Broken pipe in gloo")

    assert is_about_another_rank(raised(without_the_others))
    assert is_about_another_rank(OtherRankLost("gone"))
    assert not is_about_another_rank(raised(own)) and not is_about_another_rank(raised(full))
    assert not is_about_another_rank(ValueError("Connection reset"))


def test_a_rank_that_ended_while_it_reported_keeps_nobody_waiting() -> None:
    store = HashStore()
    for _ in range(2):
        number = store.add("failures", 1)
    failure = Failure(rank=1, where="cpu", message="out of cheese")
    store.set(f"failure/{number}", msgspec.json.encode(failure).decode())
    assert [(told.rank, told.message) for told in launch._reports(store)] == [(1, "out of cheese")]


def test_a_hang_is_told_from_slow_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=lambda: now))
    progress = StallDetector(limit=5)
    pass_time(10)
    assert not progress.stalled, "nothing was expected"
    with progress.working():
        assert not progress.stalled
        pass_time(10)
        assert progress.stalled
        progress.mark()
        assert not progress.stalled
        with progress.waiting():
            pass_time(10)
            assert not progress.stalled
        assert not progress.stalled
    measured = StallDetector()
    first = measured.limit
    with measured.working():
        pass_time(0.02)
        measured.mark()
        measured.settle()
    assert measured.limit < first


def test_weights_are_told_apart(tmp_path) -> None:
    model = save_model(tmp_path / "one")
    same = save_model(tmp_path / "two")
    key = weights_key(model, [])
    assert weights_key(same, []) == key
    lora, strong = tmp_path / "lora" / "a.safetensors", tmp_path / "strong" / "a.safetensors"
    size = load_file(model / "diffusion_pytorch_model.safetensors")["blocks.0.self_attn.q.weight"].shape[0]
    for file, alpha in ((lora, "2"), (strong, "4")):
        file.parent.mkdir()
        factors = {"lora_A": torch.ones(2, size), "lora_B": torch.ones(size, 2)}
        tensors = {f"blocks.0.self_attn.q.{name}.weight": value for name, value in factors.items()}
        save_file(tensors, file, metadata={"lora_alpha": alpha})
    others = {
        weights_key(model, [(lora, 1.0)]),
        weights_key(model, [(lora, 0.5)]),
        weights_key(model, [(strong, 1.0)]),
    }
    assert len(others | {key}) == 4


def test_packed_weights_are_told_apart(tmp_path) -> None:
    files = [demo_file(tmp_path / f"{kind.name}.gguf", kind) for kind in (Q8_0, Q4_0)]
    first, second, again = (weights_key(file, []) for file in (*files, files[0]))
    assert first == again != second


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, None])
def test_what_workers_compute_in_is_known_before_they_start(tmp_path, stored) -> None:
    """Equal to what they tell once they run (`Ready.dtype`); None stands for packed weights."""
    if stored is None:
        file = demo_file(tmp_path / "packed.gguf", Q8_0)
    else:
        file = save_model(tmp_path) / "diffusion_pytorch_model.safetensors"
        save_file({name: weight.to(stored) for name, weight in load_file(file).items()}, file)
    checkpoint, gpu = open_checkpoint(file), torch.device("cuda", 0)
    half = stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16
    assert dtype_in_workers(checkpoint, "auto", gpu) == half
    assert dtype_in_workers(checkpoint, "auto", CPU) == torch.float32
    assert dtype_in_workers(checkpoint, "fp16", gpu) == dtype_in_workers(checkpoint, "fp16", CPU) == torch.float16


def test_a_changed_weight_changes_the_key_wherever_the_file_is_mapped(tmp_path) -> None:
    model = save_model(tmp_path) / "diffusion_pytorch_model.safetensors"
    key, weights = weights_key(tmp_path, []), load_file(model)
    save_at(model, weights, 12)
    assert weights_key(tmp_path, []) == key
    for number, name in ((0, "blocks.0.ffn.0.weight"), (-1, "head.head.weight"), (3, "blocks.1.self_attn.q.bias")):
        changed = {**weights, name: weights[name].clone()}
        changed[name].view(-1)[number] += 0.01
        save_at(model, changed, 12)
        assert weights_key(tmp_path, []) != key
