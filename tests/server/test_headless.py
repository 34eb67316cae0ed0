"""run_workflow.py against real servers: inputs by name, batches, going on, a server that is lost; and plain HTTP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import run_workflow
from comfy_client import Event, Prompt
from comfy_server import ROOT, ComfyServer, make_base
from job_runner import Board, Record, Server, is_free, run_jobs
from video_facts import probe
from workflow_jobs import Job, Setting, find_workflow

SMALL = {"num_clip": 1, "infer_frames": 12, "width": 64, "height": 64}
SET = [word for name, value in SMALL.items() for word in ("--set", f"Clip Scheduler.{name}={value}")]


@pytest.fixture
def run(server: ComfyServer, capfd) -> Callable[..., tuple[int, str]]:
    """run("--batch", ...): the command's exit code on the running server, and all that it printed."""

    def run_it(*arguments: object) -> tuple[int, str]:
        code = run_workflow.main(["--server", server.url, *map(str, arguments)])
        told = capfd.readouterr()
        return code, told.out + told.err

    return run_it


def test_a_batch_with_files_and_then_only_what_is_new(run, server, tmp_path):
    picture, voice = (next(path for path in sorted((ROOT / "demo").rglob(kind))) for kind in ("*.png", "*.wav"))
    shutil.copyfile(picture, tmp_path / "Gesicht ä.png")
    shutil.copyfile(voice, tmp_path / "voice.wav")
    head = "id,Picture.image,Voice.audio,Clip Scheduler.seed,Online VAE Decode.crf\n"
    row = "anna,Gesicht ä.png,voice.wav,910,30\n"
    batch, output = tmp_path / "jobs.csv", tmp_path / "videos"
    batch.write_text(head + row + "ben,,,x,\n", encoding="utf-8")
    arguments = ["--batch", batch, "--output", output, *SET]
    code, told = run(*arguments)
    assert code == run_workflow.SOME_FAILED, told
    assert "Clip Scheduler.seed='x': invalid literal for int()" in told and "1 of 2 jobs failed: ben" in told
    assert "anna: DiT Sampler 100 %" in told and "anna: done in" in told
    (video,) = (output / "anna").iterdir()
    assert probe(video).frames == 12
    batch.write_text(head + row + "ben,,,911,\n", encoding="utf-8")
    code, told = run(*arguments)
    assert code == 0 and "1 of 2 jobs are done already" in told and "anna:" not in told, told
    assert [json.loads(line)["id"] for line in (output / "jobs.jsonl").read_text().splitlines()] == ["anna", "ben"]
    assert run(*arguments) == (0, "2 of 2 jobs are done already\n")


def test_what_is_wrong_with_a_job_is_told_in_the_server_s_words(run, tmp_path):
    for setting, said in [
        ("Clip Scheduler.infer_frames=13", "infer_frames is 13"),
        ("Clip Schedule.seed=1", "the workflow has no input 'Clip Schedule.seed'. It has: Audio Encode."),
        ("Picture.image=/nowhere/face.png", "Picture.image: there is no file /nowhere/face.png"),
        ("Picture.image=nothing-there.png", "nothing-there.png"),
    ]:
        code, told = run("--output", tmp_path, "--set", setting)
        assert code == run_workflow.SOME_FAILED and said in told, told


def test_ten_lines_of_http_are_enough(run, server, tmp_path):
    code, told = run("--list")
    assert code == 0 and "Clip Scheduler.num_clip = 0\n" in told
    assert run("--export", tmp_path / "prompt.json", *SET)[0] == 0
    page = (ROOT / "docs" / "HEADLESS.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    program = program.replace("http://127.0.0.1:8188", server.url)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("success {") and ".mp4" in done.stdout, done.stderr
    exported = json.loads((tmp_path / "prompt.json").read_text(encoding="utf-8"))
    assert exported["6"]["inputs"]["infer_frames"] == 12
    code, told = run("--workflow", tmp_path / "prompt.json", "--output", tmp_path / "again", "--quiet")
    assert code == 0 and "job: done in" in told and "%" not in told, told


@pytest.mark.not_on_windows
def test_a_stopped_command_stops_its_job_and_goes_on_later(server, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "run_workflow.py", "--server", server.url, "--output", tmp_path]
    settings = {**SMALL, "num_clip": 5, "seed": 920}
    command += [word for name, value in settings.items() for word in ("--set", f"Clip Scheduler.{name}={value}")]
    spools, stopped = server.base / "user" / "__liveavatar_spools", False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        assert first.stdout is not None
        for _ in first.stdout:
            if not stopped and len(finished_clips(spools, 920)) >= 2:
                stopped = True
                first.send_signal(signal.SIGTERM)
    assert stopped and first.returncode == run_workflow.TERMINATED
    wait_until_free(server)
    kept = finished_clips(spools, 920)
    assert 2 <= len(kept) < 5 and not list(tmp_path.iterdir())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "job: done in" in done.stdout, done.stdout + done.stderr
    assert kept.items() <= finished_clips(spools, 920).items() and len(finished_clips(spools, 920)) == 5


def wait_until_free(server: ComfyServer) -> None:
    deadline = time.monotonic() + 120
    while not is_free(server.client):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_lost_server_s_job_goes_on_elsewhere_and_nothing_is_sampled_twice(server, tmp_path):
    """Two servers that share the folder of finished clips; one is killed in the middle of its job."""
    clips, seeds = 3, {"a": 930, "b": 931}
    shared = server.base / "user" / "__liveavatar_spools"
    shared.mkdir(parents=True, exist_ok=True)
    base = make_base(tmp_path / "base")
    (base / "user" / "__liveavatar_spools").symlink_to(shared, target_is_directory=True)
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    plan = {**SMALL, "num_clip": clips, "infer_frames": 24}
    jobs = [
        Job(
            name,
            find_workflow("short_clip", tmp_path),
            tuple(Setting(f"Clip Scheduler.{key}", value, tmp_path) for key, value in {**plan, "seed": seed}.items()),
        )
        for name, seed in seeds.items()
    ]
    sampled: Counter[tuple[str, str]] = Counter()
    lost: dict[str, int] = {}
    board, lines = Board(jobs), []
    with ComfyServer(comfyui, base) as second:

        def progress(job: Job, prompt: Prompt) -> Callable[[Event], None]:
            def count(event: Event) -> None:
                if event.kind == "preview" and not (lost and board.running[job.id][0] is second.client):
                    url = board.running[job.id][0].url
                    sampled[job.id, url] += 1
                    if url == second.url and sampled[job.id, url] == 5:
                        os.kill(second.process_id, signal.SIGKILL)
                        second.wait()
                        lost[job.id] = len(finished_clips(shared, seeds[job.id]))

            return count

        def tell(name: str, text: str) -> None:
            lines.append(f"{name}: {text}")

        record = Record(tmp_path)
        servers = [Server(one.client, board, record, tell, progress) for one in (second, server)]
        assert run_jobs(servers, board, 30), lines
    assert not board.failed and board.left == 0, lines
    ((job, finished),) = lost.items()
    assert finished >= 2 and sampled[job, server.url] == 2 * (clips - finished), (sampled, lost, lines)
    (other,) = set(seeds) - {job}
    assert sampled[other, server.url] == 2 * clips and not sampled[other, second.url]
    assert any("is lost" in line for line in lines)
    for name in seeds:
        (video,) = (tmp_path / name).glob("*.mp4")
        assert probe(video).frames == 24 * clips


def finished_clips(spools: Path, seed: int) -> dict[Path, int]:
    """Of the video with a seed, with the times when they were made."""
    abouts = [path for path in spools.glob("*/spool.json") if str(seed) in path.read_text(encoding="utf-8")]
    return {clip: clip.stat().st_mtime_ns for path in abouts for clip in path.parent.glob("clip-*")}
