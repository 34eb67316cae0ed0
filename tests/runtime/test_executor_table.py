"""The table of executors: nobody else knows them by name, so a new one is a row, and what runs it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.table import FOR_AUTO, IN_GROUPS, NAMES, TABLE, check_devices, check_executor
from liveavatar_runtime.planning.forecast import Forecast, Setting
from liveavatar_runtime.planning.presets import PRESETS
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_workers.rank.executors import ON_RANKS

ROOT = Path(__file__).parents[2]
PACKAGES = ("liveavatar_runtime", "liveavatar_workers", "comfy_bridge", "nodes")
ROWS = {f"liveavatar_runtime/executors/{name}.py" for name in ("groups", "local", "pipelines")}
"""The modules with a row for each executor that they have."""
ON_RANKS_FILE = "liveavatar_workers/rank/executors.py"
OTHER_MEANING = "liveavatar_runtime/checkpoint/detect.py"
"""A convolution of the model is called local too."""


def files() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_executors_are_named_in_their_rows_only() -> None:
    """So there is no chain of ifs over names, and each name stands once."""
    literals = [
        (node.value, file)
        for file, tree in files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in TABLE and file != OTHER_MEANING
    ]
    assert sorted(name for name, _ in literals) == sorted(TABLE)
    assert {file for _, file in literals} == ROWS


def test_rows_are_taken_from_the_table() -> None:
    """But by what runs them on the ranks of a group."""
    rows = {name.upper() for name in TABLE}
    takers = {
        file
        for file, tree in files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and rows & {alias.name for alias in node.names}
    }
    assert takers == {"liveavatar_runtime/executors/table.py", ON_RANKS_FILE}


def test_ranks_can_run_what_the_table_says() -> None:
    assert set(IN_GROUPS) == set(ON_RANKS)
    assert all(kind.here is not None or kind.runs_in_groups for kind in TABLE.values())


def test_auto_needs_no_workers() -> None:
    assert [kind.name for kind in FOR_AUTO] == ["layer_pipeline", "timestep_pipeline", "local"]
    assert all(kind.here is not None for kind in FOR_AUTO)


def test_the_choices_of_saved_workflows_stay() -> None:
    assert NAMES == ("auto", "local", "fsdp", "timestep_pipeline", "layer_pipeline")
    with pytest.raises(InputError, match="executor is 'remote'; allowed are auto, local, fsdp, timestep_pipeline, "):
        check_executor("remote")


@pytest.mark.parametrize(
    ("name", "devices", "reason"),
    [
        ("local", ["cpu", "cpu"], "local runs on one device, devices names 2; choose another executor"),
        ("fsdp", ["cuda:0", "cpu"], "fsdp needs devices of one kind"),
        ("fsdp", ["cuda:0", "cuda:0"], "name each GPU once"),
        ("layer_pipeline", ["cpu"] * 41, "the model has 40 layers, so at most 40 devices can share it"),
        ("timestep_pipeline", ["cpu"] * 41, ""),
        ("auto", ["cpu"] * 41, ""),
    ],
)
def test_each_says_why_it_cannot_run(name: str, devices: list[str], reason: str) -> None:
    places = [torch.device(device) for device in devices]
    if not reason:
        check_devices(name, places, WAN_S2V_14B)
        return
    with pytest.raises(InputError, match=reason):
        check_devices(name, places, WAN_S2V_14B)


@pytest.mark.parametrize("kind", TABLE.values(), ids=TABLE)
def test_each_forecasts_under_its_own_name(kind) -> None:
    work = Workload(WAN_S2V_14B, ClipPlan(width=384, height=256, keep_aspect=False))
    machines = next(found for found in PRESETS if found.name == "2x RTX 4090")
    (option,) = kind.forecast(Forecast(work, machines, 0.0, Setting()))
    assert option.executor == kind.name and option.stages == (2 if kind.shares else 1)
