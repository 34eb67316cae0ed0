"""The memory plan against the bytes of tensors that sampling really adds, on the processor."""

import pytest

from benchmarks.peaks import MIB, Case, live_peak
from liveavatar_runtime.dit.placement import Placement


@pytest.mark.parametrize(
    "placement",
    [Placement(), Placement("ram"), Placement("device", "fp8"), Placement(batched=True)],
    ids=["device", "ram", "fp8", "batched"],
)
def test_live_tensors_are_as_planned(placement):
    # The demo's model at a larger size, where caches are most of it.
    case = Case("demo", "float32", "local", placement, side=128)
    found = live_peak(case)
    assert found.live_fits(case), f"planned {case.planned / MIB:.2f} MiB, measured {found.live / MIB:.2f} MiB"
    # What the plan leaves out is told apart, and small beside it.
    assert case.left_out <= 0.25 * case.planned
