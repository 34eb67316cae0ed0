"""Jobs for servers: batches, names of inputs, types of values, what is noted as done; and what the pages say of it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import job_runner
import pytest
import run_workflow
from comfy_client import ComfyClient
from job_runner import LOSSES_OF_A_JOB, Board, Record, Server, places_of, run_jobs
from workflow_jobs import Batch, Job, JobError, Setting, find_workflow, parse_setting, targets, typed

from benchmarks import scale

ROOT = Path(__file__).parents[2]
HEADLESS, SCALE = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("HEADLESS", "SCALE"))
INFO: dict[str, Any] = {
    "KSampler": {"display_name": "Sampler", "input": {"required": {"seed": ["INT", {}], "cfg": ["FLOAT", {}]}}}
}
NODES: dict[str, Any] = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 1, "cfg": 1.0}, "_meta": {"title": "First"}},
    "2": {"class_type": "KSampler", "inputs": {"seed": 2, "codec.crf": 3}},
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1.seed", [("1", "seed")]),
        ("First.cfg", [("1", "cfg")]),
        ("Sampler.seed", [("2", "seed")]),
        ("KSampler.seed", [("1", "seed"), ("2", "seed")]),
        ("2.cfg", [("2", "cfg")]),
        ("2.codec.crf", [("2", "codec.crf")]),
    ],
)
def test_an_input_has_its_node_s_id_title_or_class(name: str, found: list[tuple[str, str]]) -> None:
    assert targets(NODES, name, INFO) == found


@pytest.mark.parametrize("name", ["seed", "First.sed", "Third.seed", "1.codec.crf"])
def test_an_unknown_input_is_told_with_those_that_are_there(name: str) -> None:
    with pytest.raises(JobError, match=rf"no input '{name}'. It has: First.cfg, First.seed, Sampler.codec.crf"):
        targets(NODES, name, INFO)


def test_texts_take_the_type_of_their_input() -> None:
    assert typed("7", ["INT", {}], None) == 7 and typed("7", ["FLOAT", {}], None) == 7.0
    assert typed("7", [["7", "8"], {}], "8") == "7" and typed("off", ["BOOLEAN", {}], True) is False
    assert typed("3", [], 2) == 3 and typed("no", [], True) is False and typed("no", [], "x") == "no"
    for kind, value in (("INT", "x"), ("BOOLEAN", "maybe")):
        with pytest.raises(ValueError):
            typed(value, [kind, {}], None)


def test_csv_and_json_are_the_same_batch(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "picture")
    table = write(tmp_path / "jobs.csv", "\ufeffid,Picture.image,Clip Scheduler.seed\nanna,a.png,1\nben,,2\n")
    listed = write(
        tmp_path / "jobs.json",
        json.dumps([{"id": "anna", "Picture.image": "a.png", "Clip Scheduler.seed": 1}, {"Clip Scheduler.seed": 2}]),
    )
    common = (parse_setting("Clip Scheduler.seed=9"), parse_setting("Clip Scheduler.steps=3"))
    jobs = Batch(table, "short_clip", common).jobs()
    assert [job.id for job in jobs] == ["anna", "ben"] and jobs[0].settings[1].file == tmp_path / "a.png"
    assert [[s.name for s in job.settings] for job in jobs] == [
        ["Clip Scheduler.steps", "Picture.image", "Clip Scheduler.seed"],
        ["Clip Scheduler.steps", "Clip Scheduler.seed"],
    ]
    others = Batch(listed, "short_clip").jobs()
    assert [job.id for job in others] == ["anna", "job-0002"] and others[0].settings[1].value == 1
    nulls = write(tmp_path / "nulls.json", '[{"id": null, "workflow": null, "A.b": null, "A.c": ""}]')
    (job,) = Batch(nulls, "short_clip").jobs()
    assert job.id == "job-0001" and [(s.name, s.value) for s in job.settings] == [("A.c", "")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("jobs.csv", "id\n", "has no jobs in it"),
        ("jobs.csv", "id,A.b\nx,1\nX,2\n", "the id 'X' is there twice"),
        ("jobs.csv", "id,A.b\n../x,1\n", "is to be a folder's name"),
        ("jobs.csv", "id,A.b\nx,1,2\n", "more cells than the header"),
        ("jobs.csv", "id,A.b,A.b\nx,1,2\n", "the header has 'A.b' twice"),
        ("jobs.csv", "id,A.b\n,\n", "has no jobs in it"),
        ("jobs.csv", "id,A.b\nx,\udce9\n", "cannot be read as CSV in UTF-8"),
        ("jobs.csv", "id,workflow\nx,nowhere\n", "no workflow 'nowhere': give a file, or a template"),
        ("jobs.json", "{}", "is not a list of objects"),
        ("jobs.json", "[", "cannot be read as JSON"),
    ],
)
def test_a_wrong_batch_is_told_and_nothing_runs(name: str, text: str, said: str, tmp_path: Path, capsys) -> None:
    batch = write(tmp_path / name, text)
    output = tmp_path / "videos"
    assert run_workflow.main(["--batch", str(batch), "--output", str(output)]) == run_workflow.WRONG_USE
    assert said in capsys.readouterr().err and not output.exists()


def test_no_server_ends_with_its_own_code(tmp_path: Path, capsys) -> None:
    options = ["--server", "http://127.0.0.1:9", "--wait", "0.2", "--output", str(tmp_path)]
    assert run_workflow.main(options) == run_workflow.NO_SERVER
    assert "no server has answered for 0.2 s; 1 jobs are left" in capsys.readouterr().err
    assert run_workflow.main([*options, "--list"]) == run_workflow.NO_SERVER


def test_a_job_is_done_while_it_and_its_files_are_as_they_were(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "picture")
    settings = (Setting("Picture.image", "a.png", tmp_path),)
    job = Job("anna", find_workflow("short_clip", tmp_path), settings)
    write(tmp_path / "anna.mp4", "video")
    Record(tmp_path).add({"id": "anna", "key": job.key, "files": ["anna.mp4"]})
    assert Record(tmp_path).has(job) and not Record(tmp_path).has(Job("ben", job.workflow, settings))
    with Record(tmp_path).file.open("a", encoding="utf-8") as file:
        file.write('{"id": "b')  # As a run that was killed leaves it.
    Record(tmp_path).add({"id": "ben", "key": "", "files": []})
    assert [line["id"] for line in Record(tmp_path)._lines] == ["anna", "ben"] and Record(tmp_path).has(job)
    write(tmp_path / "a.png", "other picture")
    assert not Record(tmp_path).has(Job("anna", job.workflow, settings))
    # A later run with other settings has written the same files.
    Record(tmp_path).add({"id": "anna", "key": "another", "files": ["anna.mp4"]})
    assert not Record(tmp_path).has(job)
    Record(tmp_path).add({"id": "anna", "key": job.key, "files": ["anna.mp4"]})
    assert Record(tmp_path).has(job)
    (tmp_path / "anna.mp4").unlink()
    assert not Record(tmp_path).has(job)


def test_a_job_is_what_it_was_when_it_began(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "picture")
    job = Job("anna", find_workflow("short_clip", tmp_path), (Setting("Picture.image", "a.png", tmp_path),))
    assert not Record(tmp_path).has(job)
    write(tmp_path / "a.png", "changed while it runs")
    assert job.key != Job("anna", job.workflow, job.settings).key


def test_files_of_one_name_stay_apart() -> None:
    def entry(folder: str, name: str) -> dict[str, str]:
        return {"subfolder": folder, "filename": name, "type": "output"}

    assert places_of([entry("a", "1.mp4"), entry("b", "2.mp4")]) == [Path("1.mp4"), Path("2.mp4")]
    assert places_of([entry("a", "1.mp4"), entry("b/c", "1.mp4")]) == [Path("a/1.mp4"), Path("b/c/1.mp4")]
    assert places_of([entry("../..", "1.mp4"), entry("/x", "1.MP4")]) == [Path("1.mp4"), Path("x/1.MP4")]


def test_a_server_that_runs_a_job_counts_as_answering(monkeypatch) -> None:
    """However long a job takes, the next one begins. The clock counts how often the jobs are looked at."""

    class Watched(Board):
        looks = 0

        @property
        def finished(self) -> bool:
            self.looks += 1
            return super().finished

        def wait(self, looks: int) -> None:
            end = self.looks + looks
            while self.looks < end:
                time.sleep(0.001)

    class Slow:
        answered = 0.0

        def work(self) -> None:
            while (job := board.take()) is not None:
                board.running[job.id] = ComfyClient("http://127.0.0.1:9"), job.id
                board.wait(100)
                board.end(job)
                board.wait(2)

    board = Watched([Job(name, Path()) for name in "ab"])
    clock = SimpleNamespace(monotonic=lambda: float(board.looks), sleep=lambda _: time.sleep(0.001))
    monkeypatch.setattr(job_runner, "time", clock)
    assert run_jobs([cast(Server, Slow())], board, patience=50) and board.finished


def test_a_job_that_loses_servers_comes_first_and_then_fails() -> None:
    jobs = [Job(name, Path()) for name in "ab"]
    board = Board(jobs)
    for _ in range(LOSSES_OF_A_JOB - 1):
        assert board.take() == jobs[0] and board.give_back(jobs[0])
    assert board.take() == jobs[0] and not board.give_back(jobs[0])
    board.end(jobs[0], failed=True)
    assert board.take() == jobs[1] and board.take() is None and not board.finished
    board.end(jobs[1])
    assert board.finished and board.failed == ["a"]


def table_rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_option_and_exit_code_is_explained(capsys) -> None:
    with pytest.raises(SystemExit):
        run_workflow.parse_arguments(["--help"])
    usage = capsys.readouterr().out
    first = [row[0] for row in table_rows(HEADLESS)]
    options = {cell.strip("`").split()[0] for cell in first if cell.startswith("`--")}
    assert set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) == options
    codes = [code for cell in first if re.fullmatch(r"[\d, ]+", cell) for code in cell.split(", ")]
    assert codes == re.findall(r"(?:^  |\()(\d+)(?=  |:)", usage, re.MULTILINE)


def test_every_command_of_the_page_is_one() -> None:
    commands = re.findall(r"python scripts/run_workflow.py ((?:.*\\\n)*.*)", HEADLESS)
    assert len(commands) >= 3
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|[^\s\\]+', command)]
        options = run_workflow.parse_arguments(words)
        assert all(map(parse_setting, options.set)) and find_workflow(options.workflow, Path())


def test_the_files_that_the_page_names_are_all_that_is_needed(tmp_path: Path) -> None:
    names = re.findall(r"`(\w+\.py)`", HEADLESS.split("\n## ")[0].split("into one folder:")[1])
    for name in names:
        (tmp_path / name).write_bytes((ROOT / "scripts" / name).read_bytes())
    done = subprocess.run([sys.executable, "run_workflow.py", "--workflow", "x"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 2 and b"none beside this script" in done.stderr
    assert len(names) == 5 and all(name in (run_workflow.__doc__ or "") for name in names)


def test_the_scale_is_what_the_simulator_says() -> None:
    for line in scale.table():
        assert line in SCALE
    assert scale.disk() in SCALE
    results = (ROOT / "benchmarks" / "results" / "card-h100.md").read_text(encoding="utf-8")
    predicted, measured = re.search(r"frames a second, end to end, 688x368 \| ([\d.]+) \| ([\d.]+)", results).groups()  # type: ignore[union-attr]
    assert round(float(predicted) / float(measured), 2) == scale.PREDICTED_OVER_MEASURED
    h100 = scale.cards()[0]
    assert f"| {h100.option.fps.likely / float(measured):.2f} |" in SCALE and h100.name == "H100"
