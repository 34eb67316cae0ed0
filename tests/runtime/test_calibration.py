"""Rates of cards: measured where there is a calibration, predicted elsewhere, and said so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.advisor import Advisor, rates
from liveavatar_runtime.planning.calibration import Calibration, load_calibrations, short_name
from liveavatar_runtime.planning.presets import PREDICTED, PRESETS, measured_machines
from liveavatar_runtime.planning.ranges import SOURCES
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB

H100 = Calibration(
    card="NVIDIA H100 80GB HBM3", memory=79.2 * GIB, flops=400e12, decode_flops=100e12, host_bandwidth=50e9
)


@pytest.mark.parametrize(
    ("card", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"),
    ],
)
def test_cards_of_one_speed_have_one_name(card, short):
    assert short_name(card) == short


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    (tmp_path / "h100.json").write_text(H100.to_json(), encoding="utf-8")
    assert load_calibrations(tmp_path) == {"H100": H100}
    assert load_calibrations(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", json.dumps({"card": "a", "memory": 1, "flops": -1})],
)
def test_a_file_that_is_none_is_named(tmp_path, content):
    (tmp_path / "odd.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"odd\.json"):
        load_calibrations(tmp_path)


def test_a_known_card_takes_over_the_measured_rates_and_says_so():
    a100 = next(card for card in PREDICTED if card.name == "A100")
    assert a100.source == "assumed" and a100.decoding < a100.flops
    measured = a100.calibrated({"A100": replace(H100, card="NVIDIA A100-SXM4-80GB", flops=200e12)})
    assert (measured.source, measured.flops, measured.decoding) == ("measured", 200e12, 100e12)
    assert measured.memory == a100.memory
    assert a100.calibrated({"H100": H100}) is a100


def test_another_card_becomes_a_machine_of_its_own():
    (machine,) = measured_machines([H100])
    assert machine.name == "1x H100" and machine.devices[0].source == "measured"
    assert machine.interconnect.host.bandwidth == 50e9
    assert "H100 400 TFLOP/s (measured)" in rates([machine])
    work = Workload(WAN_S2V_14B, ClipPlan(width=384, height=256, keep_aspect=False))
    slower = replace(machine, devices=(replace(machine.devices[0], decode_flops=1e12),))
    assert Advisor(work, slower).best().fps.likely < Advisor(work, machine).best().fps.likely


def test_the_documentation_says_which_rates_are_measured():
    text = (Path(__file__).parents[2] / "docs" / "EXECUTORS.md").read_text(encoding="utf-8")
    assert rates() in text
    assert all(card.source in SOURCES[:-1] for machine in PRESETS for card in machine.devices)
