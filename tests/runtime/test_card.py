"""The command that measures a card, on the processor: all of its parts run, and what fails is told."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.card import fits, models, pack, parent, right
from benchmarks.card.bench import GIB, Bench
from benchmarks.card.budget import Budget, Step, names
from benchmarks.card.child import NO_CARD, SPOILED, Task, run_part, run_steps
from benchmarks.card.compare import adopt, calibration_of, file_name, summary
from benchmarks.card.parent import Options, measure
from benchmarks.card.plan import PARTS, Part
from benchmarks.card.records import Recorder, facts, failures, of_kind, read_records
from benchmarks.card.table import page
from benchmarks.card.trace import kind_of, parse, usage, waits
from liveavatar_runtime.dit.placement import Placement

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More of them only get into each other's way with these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Records of all parts, each run in this process."""
    path = tmp_path_factory.mktemp("card") / "records.jsonl"
    for part in PARTS:
        assert run_part(Task(part.name, path, time.time() + 3600, tiny=True)) == 0
    return read_records(path)


def bench_at(path: Path, seconds: float = 3600, tiny: bool = False) -> Bench:
    return Bench(CPU, Recorder(path / "records.jsonl", "right"), Budget(time.time() + seconds), tiny)


def test_every_part_runs_and_finds_the_processor_right(tiny_run):
    assert [record["text"] for record in of_kind(tiny_run, "error")] == []
    assert list(failures(tiny_run, correctness=True)) == []
    done = {(record["part"], record["step"]) for record in of_kind(tiny_run, "end")}
    assert done == {(part.name, step.name) for part in PARTS for step in part.steps()}


def test_every_way_to_run_a_model_is_checked(tiny_run):
    checked = "\n".join(record["name"] for record in of_kind(tiny_run, "check"))
    for way in ("layer_pipeline", "timestep_pipeline", "in RAM", "of 2 layers on the device", "as fp8", "in one batch"):
        for model in ("demo, bf16", "demo, fp32", "14B width, bf16"):
            assert any(model in line and way in line for line in checked.splitlines()), (model, way)
    assert "frames in bf16 as the processor's" in checked and "the host waits for the card" in checked


def test_what_is_measured_is_on_the_page(tiny_run):
    text = page(tiny_run)
    for table in ("Memory against the plan", "An evaluation", "Where the time goes", "VAE, a block", "End to end"):
        assert f"## {table}" in text
    assert "checks passed" in text and "## The planner against what was measured" in text
    assert "no folder was given with --comfyui" in text


def test_a_processor_gives_no_calibration(tiny_run):
    assert facts(tiny_run)["card"] == "processor"
    assert calibration_of(tiny_run) is None
    assert "Median" in summary(tiny_run)[-1]


def test_a_card_gives_one():
    records = [{"kind": "fact", "name": n, "value": v} for n, v in (("card", "NVIDIA H100 80GB HBM3"), ("torch", "2"))]
    records += [{"kind": "fact", "name": "memory, bytes", "value": 80 * GIB}]
    records += [{"kind": "rate", "name": n, "value": v} for n, v in (("evaluation", 4e14), ("decoding", 1e14))]
    found = calibration_of(records)
    assert found is not None and (found.name, found.flops, found.decode_flops) == ("H100", 4e14, 1e14)
    assert found.host_bandwidth is None
    assert file_name(found.card) == "h100"


LACKING = (
    "import sys\n"
    "for name in ('av', 'cv2', 'torchaudio', 'comfy', 'comfy_kitchen', 'comfy_aimdo', 'diffusers', 'gguf'):\n"
    "    sys.modules[name] = None\n"
)
"""Makes what a machine with a card may lack impossible to import, in a process that finds it as `sitecustomize`."""


@pytest.fixture
def lacking(tmp_path) -> dict[str, str]:
    """Environment of processes on such a machine."""
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "sitecustomize.py").write_text(LACKING, encoding="utf-8")
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "lacking")}


def test_the_command_writes_its_files(tmp_path, lacking):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.card", "--tiny", "--only", "machine", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=lacking, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["card-processor.md", "log.txt", "results.json"]
    records = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert of_kind(records, "error") == [] and facts(records)["card"] == "processor"


def test_all_of_it_can_be_imported_without_what_a_machine_with_a_card_may_lack(lacking):
    code = (
        "import pkgutil, sys, importlib, benchmarks.card as card\n"
        "for module in pkgutil.iter_modules(card.__path__):\n"
        "    if module.name != '__main__': importlib.import_module(f'benchmarks.card.{module.name}')\n"
        "from benchmarks.card.models import Demo\n"
        "print(Demo.load(tiny=True).plan.num_blocks)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=lacking, capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stdout + done.stderr


def test_an_error_is_a_result_and_the_next_step_runs(tmp_path):
    def fails(bench: Bench) -> None:
        raise RuntimeError("this card is odd\nsecond line")

    ran = []
    bench = bench_at(tmp_path)
    steps = [Step("first", 1, fails, checks=True), Step("second", 1, fails), Step("third", 1, lambda b: ran.append(b))]
    assert run_steps(bench, steps) == 0 and ran == [bench]
    errors = of_kind(read_records(bench.record.path), "error")
    assert [error["text"] for error in errors] == ["RuntimeError: this card is odd"] * 2
    assert "second line" in errors[0]["traceback"] and "fails" in errors[0]["traceback"]
    # Only the first was to show that results are right.
    assert list(failures(read_records(bench.record.path), True)) == ["first: RuntimeError: this card is odd"]


def test_a_spoiled_device_ends_the_process_with_its_own_code(tmp_path, monkeypatch):
    def fails(bench: Bench) -> None:
        monkeypatch.setattr(Bench, "finish", broken)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def broken(self: Bench) -> None:
        raise RuntimeError("CUDA error")

    ran = []
    steps = [Step("first", 1, fails), Step("second", 1, lambda bench: ran.append(bench))]
    assert run_steps(bench_at(tmp_path), steps) == SPOILED and ran == []


def test_what_does_not_fit_into_the_time_is_left_out_with_a_line(tmp_path):
    bench, ran = bench_at(tmp_path, seconds=30), []
    steps = [Step("long", 60, lambda b: ran.append("long")), Step("short", 5, lambda b: ran.append("short"))]
    assert run_steps(bench, steps) == 0 and ran == ["short"]
    (skip,) = of_kind(read_records(bench.record.path), "skip")
    assert skip["step"] == "long" and "needs about 60 s" in skip["reason"]


def test_what_the_machine_cannot_do_is_left_out(tmp_path):
    class SmallCard(Bench):
        def total_memory(self) -> int:
            return 24 * GIB

    bench = SmallCard(CPU, Recorder(tmp_path / "records.jsonl", "fits"), Budget(time.time() + 3600))
    step = Step("large", 1, lambda bench: fits.cases(bench, Placement(), "bf16"), checks=True)
    assert run_steps(bench, [step]) == 0
    records = read_records(bench.record.path)
    assert of_kind(records, "error") == [] and list(failures(records, True)) == []
    assert "the weights take 30.4 GiB, the card has 22.1 to use" in of_kind(records, "skip")[0]["reason"]


def test_a_new_process_goes_on_after_one_that_died(tmp_path, monkeypatch):
    """One that hung (and was ended), one that ran out of luck at its second step, one that comes to the end."""
    begun = []

    def process(task: Task, log: Path, budget: Budget, pages: parent.Pages) -> int:
        log.write_text("Thread 0x1 (most recent call first): in a kernel", encoding="utf-8")
        recorder = Recorder(task.records, task.part)
        begun.append(task.first)
        recorder.begin(f"step {task.first}", task.first)
        return {0: 1, 1: SPOILED, 2: 0}[task.first]

    monkeypatch.setattr(parent, "PARTS", (Part("right", 1.0, tuple),))
    monkeypatch.setattr(parent, "_process", process)
    told: list[str] = []
    assert measure(Options(tmp_path, minutes=1), told.append) == 1
    assert begun == [0, 1, 2]
    records = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (error,) = of_kind(records, "error")
    assert error["step"] == "step 0" and "in a kernel" in error["traceback"]
    assert any(line.startswith("WRONG: step 0: its process ended with code 1") for line in told)


def test_the_exit_code_tells_whether_a_result_is_wrong(tmp_path, monkeypatch):
    def process(task: Task, log: Path, budget: Budget, pages: parent.Pages) -> int:
        recorder = Recorder(task.records, task.part, "a step")
        recorder.fact("card", "NVIDIA H200")
        recorder.check("memory within 5%", False, "off by 7 %", correctness=False)
        recorder.check("latents", task.tiny, "relative difference 0.3, allowed 0.01")
        return 0

    monkeypatch.setattr(parent, "PARTS", (Part("right", 1.0, tuple),))
    monkeypatch.setattr(parent, "_process", process)
    told: list[str] = []
    assert measure(Options(tmp_path / "wrong", minutes=1), told.append) == 1
    assert "WRONG: latents: relative difference 0.3, allowed 0.01" in told
    assert "off the plan: memory within 5%: off by 7 %" in told
    assert measure(Options(tmp_path / "right", minutes=1, tiny=True), told.append) == 0
    assert (tmp_path / "right" / "card-h200.md").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_nothing_large_is_begun(tmp_path):
    assert run_part(Task("fits", tmp_path / "records.jsonl", time.time() + 60)) == NO_CARD
    assert read_records(tmp_path / "records.jsonl") == []


def test_a_wrong_result_fails_its_check(tmp_path):
    bench, exact = bench_at(tmp_path), torch.ones(4, 4)
    reference = right.Reference(exact, rounding=4e-3, terms=256)
    right.agree(bench, "near", exact + 1e-3, exact, reference.tolerance(torch.bfloat16))
    right.agree(bench, "far", exact + 1e-1, exact, reference.tolerance(torch.bfloat16))
    right.agree(bench, "not finite", exact * float("nan"), exact, reference.tolerance(torch.bfloat16))
    right.agree(bench, "fp32 as bad as bf16", exact + 1e-3, exact, reference.tolerance(torch.float32))
    passed = {check["name"]: check["passed"] for check in of_kind(read_records(bench.record.path), "check")}
    assert passed == {"near": True, "far": False, "not finite": False, "fp32 as bad as bf16": False}


def test_a_trace_tells_kernels_gaps_and_waiting_host_calls():
    def event(name, category, start, length, thread=1):
        return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": length, "pid": 7, "tid": thread}

    trace = parse(
        {
            "traceEvents": [
                {"ph": "M", "name": "process_name"},
                event("evaluation", "user_annotation", 0, 100),
                event("cudaStreamSynchronize", "cuda_runtime", 10, 5),
                event("cudaMemcpyAsync", "cuda_runtime", 20, 5),
                event("cudaStreamSynchronize", "cuda_runtime", 150, 5),
                event("cudaStreamSynchronize", "cuda_runtime", 30, 5, thread=2),
                event("sm90_xmma_gemm_bf16", "kernel", 0, 40, thread=9),
                event("flash_fwd_kernel", "kernel", 30, 20, thread=9),
                event("elementwise", "kernel", 75, 25, thread=9),
            ]
        }
    )
    assert [call.start for call in trace.waits(trace.ranges("evaluation"))] == [10]
    assert [kind_of(event.name) for event in trace.device_work] == ["matmul", "attention", "other"]
    used = usage(trace.device_work)
    assert (used.span, used.busy) == pytest.approx((100e-6, 75e-6)) and used.gap == pytest.approx(0.25)
    assert waits("cudaDeviceSynchronize") and not waits("cudaStreamWaitEvent") and not waits("cudaMemcpyAsync")


def test_fp8_weights_give_what_their_numbers_say():
    torch.manual_seed(0)
    linear = models.Fp8Linear(64, 32, device="meta", dtype=torch.float32)
    models.fill(linear, CPU)
    x = torch.randn(5, 64)
    assert linear.bias is not None
    expected = x @ (linear.weight.float() * linear.scale).T + linear.bias
    torch.testing.assert_close(linear(x), expected)
    assert 0.05 < float((linear.weight.float() * linear.scale).std()) < 0.25


def test_two_steps_of_one_name_are_refused():
    assert all(names(part.steps()) for part in PARTS)
    with pytest.raises(ValueError, match="two steps have one name"):
        names([Step("a", 1, print), Step("a", 1, print)])


def test_results_are_adopted_into_the_checkout(tmp_path, monkeypatch):
    results, calibrations = tmp_path / "repository" / "results", tmp_path / "repository" / "calibrations"
    monkeypatch.setattr("benchmarks.card.compare.RESULTS", results)
    monkeypatch.setattr("benchmarks.card.compare.FOLDER", calibrations)
    monkeypatch.setattr("benchmarks.card.compare.ROOT", tmp_path)
    (tmp_path / "card-h100.md").write_text("# H100", encoding="utf-8")
    (tmp_path / "calibration-h100.json").write_text("{}", encoding="utf-8")
    done = adopt(tmp_path)
    assert (results / "card-h100.md").exists() and (calibrations / "h100.json").exists()
    assert "docs/EXECUTORS.md" in done[-1]
    with pytest.raises(FileNotFoundError, match="--out"):
        adopt(results.parent)


def test_packing_says_what_is_missing_and_what_does_not_fit(tmp_path):
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy" / "__pycache__").mkdir(parents=True)
    (comfyui / "comfy" / "ops.py").write_text("# sources", encoding="utf-8")
    (comfyui / "comfy" / "tokenizer.json").write_bytes(b"x" * 3000)
    (comfyui / "comfy" / "__pycache__" / "ops.pyc").write_bytes(b"x")
    told: list[str] = []
    limit = str(pack.tree_bytes() / 2**20 + 0.1)
    packed = tmp_path / "packed"
    arguments = ["--into", str(packed), "--comfyui", str(comfyui), "--limit", limit, "--wheels", ""]
    assert pack.main(arguments, told.append) == 0
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert files == {"ComfyUI/comfy/ops.py"}
    assert any("left out comfy_kitchen" in line and "do not fit" in line for line in told)
    assert pack.main(["--into", str(packed), "--comfyui", str(tmp_path), "--wheels", ""], told.append) == 0
    assert any("is no ComfyUI" in line for line in told)
    pack.main([*arguments, "--original", str(tmp_path)], told.append)
    assert any("left out the original" in line for line in told)
    (packed / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(SystemExit):
        pack.main(["--into", str(packed), "--wheels", ""], told.append)
    assert (packed / "mine.txt").exists()
