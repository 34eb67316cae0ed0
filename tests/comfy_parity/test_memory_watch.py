"""Memory of cards and RAM while a video is made: peaks, warnings with advice, cards that only workers use.

There is no card here: `pynvml` is one that a test makes, and was not run on a card.
"""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar_runtime.planning.memory import ON_DEVICE
from liveavatar_runtime.planning.out_of_memory import sampling_ways
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

GIB = 2**30
CPU, CARD, OTHER = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")


class FakeNvml(ModuleType):
    """Two cards of 24 GiB; the second one is known to nobody. `used`: of the first, in GiB."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.used, self.begun = 10.0, 0

    def nvmlInit(self) -> None:
        self.begun += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
        if uuid != b"GPU-uuid-0":
            raise self.NVMLError("not found")
        return uuid.decode()

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:
        assert handle == "GPU-uuid-0"
        return SimpleNamespace(used=int(self.used * GIB), total=24 * GIB, free=0)


@pytest.fixture
def node(pack: ModuleType) -> Any:
    return lambda name: importlib.import_module(f"{pack.__name__}.comfy_bridge.{name}")


@pytest.fixture
def nvml(node, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    library = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"uuid-{device.index}")
    )
    node("card_memory").nvml.cache_clear()
    yield library
    node("card_memory").nvml.cache_clear()


def test_without_the_library_nothing_of_other_cards_is_guessed(node) -> None:
    node("card_memory").nvml.cache_clear()
    assert "pynvml" not in sys.modules and node("card_memory").driver_version() is None
    watch = node("memory_watch").MemoryWatch([CPU], [CARD])
    assert [memory.device for memory in watch.read()] == ["cpu"] and list(watch.peaks) == ["cpu"]
    (sentence,) = watch.unknown()
    assert sentence.startswith("The memory of cuda:0 is not known here") and "nvidia-ml-py" in sentence


def test_cards_of_workers_are_read_without_taking_memory_of_them(node, nvml) -> None:
    watch = node("memory_watch").MemoryWatch([CPU], [CARD, OTHER])
    for nvml.used in (10.0, 13.0, 11.0):
        read = {memory.device: memory.used for memory in watch.read()}
    assert read["cuda:0"] == 11 * GIB and watch.peaks["cuda:0"].used == 13 * GIB
    assert "cuda:1" in watch.unknown()[0] and len(watch.unknown()) == 1
    assert node("card_memory").driver_version() == "580.95.05" and nvml.begun == 1
    assert not torch.cuda.is_initialized()


def test_a_card_that_is_nearly_full_is_told_once_with_what_frees_memory(node, nvml) -> None:
    from liveavatar_runtime.config import WAN_S2V_14B

    asked = []

    def ways(device: torch.device) -> Sequence[str]:
        asked.append(device)
        work = Workload(WAN_S2V_14B, ClipPlan(keep_aspect=False), torch.bfloat16)
        return sampling_ways(work, ON_DEVICE, device)

    watch = node("memory_watch").MemoryWatch([CPU], [CARD], ways)
    nvml.used = 22.7
    watch.read()
    assert not watch.warnings
    for nvml.used in (23.4, 23.9):
        watch.read()
    (warning,) = watch.warnings
    assert warning.startswith("cuda:0 is 97% full (23.4 GiB of 24.0 GiB); the next block may find no room. What frees")
    assert "kv_cache ram in DiT Sampler" in warning and asked == [CARD]
    watch.begin()
    assert not watch.warnings and not watch.peaks


def test_full_ram_counts_all_programs(node, monkeypatch) -> None:
    module = node("memory_watch")
    total = module.used_memory(CPU).total
    watch = module.MemoryWatch([CPU])
    monkeypatch.setattr(module, "taken_ram", lambda: int(0.94 * total))
    watch.read()
    assert not watch.warnings
    monkeypatch.setattr(module, "taken_ram", lambda: int(0.97 * total))
    watch.read()
    assert watch.warnings[0].startswith("RAM is 97% full")
    assert watch.peaks["cpu"].used < 0.9 * total, "the peak is what this process takes"


def test_a_card_with_much_room_is_told_to_do_more_but_not_by_more_clips(node, nvml) -> None:
    watch = node("memory_watch").MemoryWatch([CPU], [CARD])
    nvml.used = 9.0
    watch.read()
    (hint,) = watch.hints()
    assert hint.startswith("cuda:0 was never fuller than 38%") and "num_clip does not change" in hint
    nvml.used = 15.0
    watch.read()
    assert not watch.hints()


def test_a_report_gets_another_name_where_there_is_one_already(node, tmp_path) -> None:
    write = node("run_report").write_beside
    texts = [json.dumps({"number": number}) for number in range(3)]
    paths = [write(tmp_path / "a_00001_.mp4", text) for text in texts]
    assert [path.name for path in paths] == ["a_00001_.json", "a_00001_.2.json", "a_00001_.3.json"]
    assert [path.read_text(encoding="utf-8") for path in paths] == texts
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "b.mp4", "\ud800")
    assert not (tmp_path / "b.json").exists(), "nothing is left of what could not be written"


def test_a_report_says_how_a_run_ended(node) -> None:
    import comfy.model_management as core

    ended = node("run_report").how_it_ended
    assert ended(None) == "finished" and ended(core.InterruptProcessingException()) == "interrupted"
    assert ended(MemoryError("no room")) == "failed: MemoryError: no room"
