"""What is decided by the kind of a device: told by devices that need not be there."""

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp
from torch.utils._python_dispatch import TorchDispatchMode

from liveavatar_runtime.config import DEMO, WAN_S2V_14B
from liveavatar_runtime.device_kinds import copies_ahead, has_fp8, shares_ram, takes_threads
from liveavatar_runtime.devices import parse_devices
from liveavatar_runtime.dit.compiling import missing_for
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import ON_DEVICE
from liveavatar_runtime.dit.staged_cache import Fp8Store, PlainStore
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.executors.table import check_groups
from liveavatar_runtime.out_of_memory import is_out_of_memory
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.memory import CacheChoice, choose_placement, ram_bytes, working_bytes
from liveavatar_runtime.planning.out_of_memory import sampling_ways
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

ROOT = Path(__file__).parents[2]
GIB = 2**30
PLAN = ClipPlan(width=688, height=368, keep_aspect=False)
LARGE = Workload(WAN_S2V_14B, PLAN, stored_bytes=int(30.4 * GIB))
CPU, CUDA, MPS, XPU, DIRECTML = (torch.device(name) for name in ("cpu", "cuda", "mps", "xpu", "privateuseone"))


def test_only_cuda_keeps_copies_in_order() -> None:
    assert copies_ahead(CUDA, CPU) and copies_ahead(CPU, CUDA)
    assert not any(copies_ahead(device, CPU) or copies_ahead(CPU, device) for device in (CPU, MPS, XPU, DIRECTML))


def test_devices_without_fp8_and_for_one_thread() -> None:
    assert [has_fp8(device) for device in (CPU, CUDA, XPU, MPS, DIRECTML)] == [True, True, True, False, False]
    assert [takes_threads(device) for device in (CPU, CUDA, XPU, MPS)] == [True, True, True, False]
    assert shares_ram(CPU) and shares_ram(MPS) and not shares_ram(DIRECTML)


class Copies(TorchDispatchMode):
    """Notes whether copies may return before they are done."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [argument.name for argument in func._schema.arguments]
        if "non_blocking" in names:
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.ahead.append(bool(given.get("non_blocking", False)))
        return func(*args, **(kwargs or {}))


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("store", [PlainStore((1, 8, 2, 4), torch.float32, zeros), Fp8Store((1, 8, 2, 4), zeros)])
def test_caches_elsewhere_than_on_cuda_wait_for_their_copies(store: Any) -> None:
    """What is read of them next (a state) must not be what was there before."""
    values = torch.randn(8, 2, 4)
    with Copies() as copies:
        store.write(0, slice(0, 8), values)
        store.read(0, slice(0, 8), torch.empty_like(values))
    assert copies.ahead and not any(copies.ahead)


def test_nobody_copies_ahead_without_asking() -> None:
    """`non_blocking=True` stands nowhere: `copies_ahead` decides."""
    found = []
    for path in [p for part in ("liveavatar_runtime", "comfy_bridge", "nodes") for p in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "non_blocking" and isinstance(node.value, ast.Constant):
                found.append(f"{path}:{node.value.lineno}")
    assert not found


def apple(memory: int, free: int) -> Device:
    """A Mac: all of its memory is also the device's. Nothing is kept free."""
    total = memory * GIB
    return Device(kind="mps", memory=total, reserve=0, ram=free * GIB, occupied=3 * GIB, pool=total)


@pytest.mark.parametrize("kv_cache", ["auto", "device", "ram"])
def test_memory_that_is_the_devices_too_is_given_away_once(kv_cache: Any) -> None:
    """Weights and caches of 688x368 take 71 GiB, which 64 do not hold, however they are split."""
    with pytest.raises(MachineError, match="device and system share 64.0 GiB, of which the weights and the VAE's work"):
        choose_placement(LARGE, apple(64, 60), CacheChoice(kv_cache))
    chosen = choose_placement(LARGE, apple(96, 60), CacheChoice(kv_cache))
    held = working_bytes(LARGE, chosen) + ram_bytes(LARGE, chosen)
    assert held + 33.4 * GIB < 96 * GIB
    if kv_cache == "auto":
        assert chosen == ON_DEVICE, "RAM is no other place there"


def test_weights_that_stay_in_their_file_take_no_memory() -> None:
    assert choose_placement(replace(LARGE, on_disk_bytes=int(30.4 * GIB)), apple(64, 60))


def test_a_device_that_does_not_tell_its_memory_is_not_refused() -> None:
    device, work = Device(memory=None, ram=32 * GIB), replace(LARGE, stored_bytes=30 * GIB)
    assert choose_placement(work, device) == ON_DEVICE
    with pytest.raises(MachineError, match="there is unknown memory on the device and 32.0 GiB of RAM for "):
        choose_placement(work, device, CacheChoice("ram"))


def test_a_full_device_of_directml_is_known_by_its_words() -> None:
    text = "Could not allocate tensor with 1048576 bytes. There is not enough GPU video memory available!"
    assert is_out_of_memory(RuntimeError(text))
    assert not any("kv_cache ram" in way for way in sampling_ways(Workload(DEMO, PLAN, torch.float32), ON_DEVICE, MPS))


@pytest.mark.parametrize("kind", ["mps", "xpu", "privateuseone"])
def test_executors_do_not_take_the_processor_where_there_is_another_gpu(kind: str) -> None:
    with pytest.raises(InputError, match=f"devices is auto, and executors that share .* not on {kind}, .*local"):
        parse_devices("auto", kind)
    with pytest.raises(InputError, match=f"devices names '{kind}:0', and executors that share"):
        parse_devices(f"{kind}:0", kind)
    assert parse_devices("cpu,cpu", kind) == [CPU, CPU]
    assert parse_devices("auto", "cpu")


def test_groups_of_workers_are_refused_where_they_do_not_run() -> None:
    check_groups("fsdp", "linux", "2.14.1+cu130")
    check_groups("layer_pipeline", "linux", "2.6.0")
    with pytest.raises(InputError, match="Linux only, and this is win32: .* sockets .*What works here: executor local"):
        check_groups("fsdp", "win32")
    with pytest.raises(InputError, match="this is darwin: .*Apple's GPUs.*What works here"):
        check_groups("layer_pipeline", "darwin")
    with pytest.raises(InputError, match="layer_pipeline in workers needs PyTorch 2.6 or newer, and this is 2.4.1"):
        check_groups("layer_pipeline", "linux", "2.4.1+cu121")
    with pytest.raises(InputError, match="fsdp in workers needs PyTorch 2.7 or newer, and this is 2.6.0"):
        check_groups("fsdp", "linux", "2.6.0+cu124")


LOOK = """
import torch
from liveavatar_runtime.dit.compiling import missing_for
for device in ("cpu", "cuda"):
    print(missing_for(torch.device(device)))
"""


def looked(**environment: str) -> list[str]:
    """What is missing for a processor and for a card of NVIDIA's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC", "PATH")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=kept | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_missing_compiler_is_told_before_the_run(tmp_path: Path) -> None:
    """With a PATH that has no programs; one that is named in a variable is looked for as PyTorch does it."""
    import re

    missing = (r"C\+\+ compiler (g\+\+|clang\+\+|cl) is not found: ", "C compiler|Triton|triton")
    for text, told in zip(looked(PATH=str(tmp_path)), missing, strict=True):
        assert re.search(told, text) and "install" in text, text
    named = tmp_path / "my-compiler"
    named.touch(mode=0o755)
    there = looked(PATH=str(tmp_path), CXX=str(named), CC=str(named))
    assert len(there) == 2 and not any("compiler" in text for text in there), there


def test_a_device_that_nobody_compiles_for() -> None:
    assert missing_for(DIRECTML) == "PyTorch compiles nothing for privateuseone."
    assert missing_for(MPS) is None


@pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "fully_shard"), reason="PyTorch before 2.6 has no such FSDP")
def test_the_model_itself_has_a_root_for_fsdp_without_ignored_parameters() -> None:
    """What FSDP is to leave whole is put back where it was, in the order and under the names that it had."""
    from liveavatar_workers.rank.fsdp import _without

    model = CausalWanS2V(DEMO)
    before = dict(model.named_parameters())
    rest = {parameter for name, parameter in before.items() if not name.startswith(("blocks.", "audio_injector."))}
    with _without(model, rest):
        left = set(dict(model.named_parameters()))
        assert left and all(name.startswith(("blocks.", "audio_injector.")) for name in left)
    assert all(after is before[name] for name, after in model.named_parameters())
    assert set(dict(model.named_parameters())) == set(before)
