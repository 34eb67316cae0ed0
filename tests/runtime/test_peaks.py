"""The memory plan against the bytes of tensors that sampling really adds, on the processor."""

import pytest

from benchmarks.peaks import MIB, Case, live_peak
from liveavatar_runtime.dit.placement import Placement


@pytest.mark.parametrize(
    ("executor", "placement"),
    [
        ("local", Placement()),
        ("local", Placement("ram", "fp8")),
        ("local", Placement(batched=True)),
        ("layer_pipeline", Placement("device", "fp8")),
        ("timestep_pipeline", Placement("ram", device_layers=1)),
    ],
    ids=str,
)
def test_live_tensors_are_as_planned(executor, placement):
    # The demo's model at its own size, where whatever is small counts most.
    case = Case("demo", "float32", executor, placement)
    found = live_peak(case)
    assert found.live_fits(case), f"planned {case.planned / MIB:.2f} MiB, measured {found.live / MIB:.2f} MiB"
