"""Flow-matching schedule against the original's."""

import re

import pytest
import torch

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.noise_schedule import flow_matching_schedule


def test_every_stored_schedule(golden):
    stored = {
        match: values
        for name, values in golden.json("scheduler.json").items()
        if (match := re.fullmatch(r"shift([\d.]+)\.steps(\d+)", name))
    }
    assert stored
    for match, values in stored.items():
        ours = flow_matching_schedule(steps=int(match[2]), shift=float(match[1]))
        expected_steps = torch.tensor(values["timesteps"])
        torch.testing.assert_close(torch.tensor(ours.sigmas), torch.tensor(values["sigmas"]), atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(ours.timesteps), expected_steps, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("steps", "shift"), [(0, 3.0), (4, 0.0)])
def test_impossible_schedules_are_refused(steps, shift):
    with pytest.raises(InputError, match="use 4 and 3"):
        flow_matching_schedule(steps, shift)
