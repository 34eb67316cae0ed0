"""The comparison with the peers: pairs in turn, missing peers named, the report."""

import json

import torch

from benchmarks.speed import decoding, evaluation, original, report, starting
from benchmarks.speed.decoding import peak_bytes
from benchmarks.speed.paired import Paired, paired
from benchmarks.speed.setup import Row, Setup

CPU = torch.device("cpu")


def test_every_second_pair_begins_with_the_peer_after_a_run_that_does_not_count():
    order: list[str] = []
    found = paired(lambda: order.append("ours"), lambda: order.append("peer"), CPU, 3)
    assert "".join(name[0] for name in order) == "opoppoop"
    assert len(found.ours) == len(found.peer) == 3


def test_the_ratio_is_of_pairs_not_of_medians():
    found = Paired(ours=(1.0, 10.0, 3.0), peer=(2.0, 10.0, 4.0))
    assert found.ratio == 0.75 and found.as_row()["lowest"] == 0.5 and found.as_row()["highest"] == 1.0


def test_a_peer_without_a_folder_is_left_out_with_a_sentence():
    for part in (evaluation, decoding, starting, original):
        (row,) = part.rows(Setup(CPU))
        assert "no folder was given with --" in row.why_not


def test_a_peak_counts_what_is_there_at_one_time():
    def work() -> None:
        first = torch.zeros(2**20)
        del first
        second = torch.zeros(2**20)
        torch.add(second, 1)

    assert 8 * 2**20 <= peak_bytes(work) < 9 * 2**20


def test_the_report_has_each_row_as_text_json_and_picture(tmp_path):
    rows = [Row("evaluation", "demo", "ComfyUI", Paired((1.0,), (2.0,)).as_row()), Row.skipped("layer", "not here")]
    report.write(rows, "a machine", tmp_path)
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| evaluation | demo | ComfyUI |" in text and "**0.50**" in text and "not measured: not here" in text
    assert json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"][0]["values"]["ratio"] == 0.5
    assert (tmp_path / "speed.png").read_bytes()[:4] == b"\x89PNG"
