"""The commands of the README: one code path on every system, and what they say before they download anything."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import prepare
import pytest

ROOT = Path(__file__).parents[2]
HAS_BASH = shutil.which("bash") is not None


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("COMFYUI_PATH", "COMFYUI_PYTHON", "PYTHON")
    }
    return subprocess.run(
        command, cwd=ROOT, env={**kept, **variables}, capture_output=True, encoding="utf-8", check=False
    )


@pytest.mark.skipif(not HAS_BASH, reason="no bash")
@pytest.mark.parametrize(
    ("shell", "script", "arguments"),
    [
        ("demo.sh", "run_demo.py", ["--help"]),
        ("demo.sh", "run_demo.py", ["--image", "/nowhere/face.png"]),
        ("demo.sh", "run_demo.py", ["--num-clip", "two"]),
    ],
)
def test_bash_and_python_are_one_command(shell: str, script: str, arguments: list[str]) -> None:
    with_bash = run("bash", f"scripts/{shell}", *arguments, PYTHON=sys.executable)
    plain = run(sys.executable, f"scripts/{script}", *arguments)
    assert (with_bash.returncode, with_bash.stdout, with_bash.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert plain.returncode == (0 if arguments == ["--help"] else 2) and (plain.stdout or plain.stderr)


@pytest.mark.parametrize("script", ["run_demo.py", "run_tests.py", "prepare.py"])
@pytest.mark.parametrize(
    ("path", "said"), [("/nowhere/ComfyUI", "is not a folder"), (str(ROOT / "docs"), "has no main.py and comfy/ in it")]
)
def test_a_wrong_comfyui_is_told_before_anything_is_made(script: str, path: str, said: str) -> None:
    done = run(sys.executable, f"scripts/{script}", COMFYUI_PATH=path)
    assert done.returncode == 1 and f"error: COMFYUI_PATH={path} {said}" in done.stderr
    assert "Traceback" not in done.stderr and "- " not in done.stderr.split("error:")[0]


def test_a_wrong_python_is_told(monkeypatch) -> None:
    monkeypatch.setenv("PYTHON", str(ROOT / "README.md"))
    with pytest.raises(prepare.Unprepared, match=r"PYTHON=.*README.md is not a Python 3.10 or newer that runs"):
        prepare.base_python()


def test_what_a_failed_step_said_is_shown(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(prepare, "LOG", tmp_path / "prepare.log")
    program = "print('WARNING: noise'); print('no such package'); raise SystemExit(3)"
    with pytest.raises(prepare.Unprepared, match='"Installing" failed'):
        prepare.step("Installing", sys.executable, "-c", program)
    assert "    no such package\n" in capsys.readouterr().err
    prepare.step("Installing", sys.executable, "-c", "print('fine')")


def test_only_the_expected_archive_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "other.tar.gz"
    archive.write_bytes(b"other")
    digest = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(prepare.Unprepared, match=f"other.tar.gz is not the expected file: sha256 {digest}"):
        prepare.unpack_comfyui(archive, Path(sys.executable), tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_what_is_installed_is_ours_and_theirs(tmp_path: Path) -> None:
    """Without the templates' pictures, with the OpenCV that servers can import, and the tools."""
    (tmp_path / "requirements.txt").write_text("torch\ncomfyui-workflow-templates==1\naiohttp>=3\n", encoding="utf-8")
    lines = prepare.wanted_packages(tmp_path, Path(sys.executable)).splitlines()
    assert lines[:2] == ["torch", "aiohttp>=3"] and "opencv-python-headless>=4.8,<5" in lines
    assert any(line.startswith("pytest") for line in lines) and not any("workflow-templates" in line for line in lines)


def test_the_fast_choice_is_large():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sum("::" in line for line in listed.splitlines()) >= 1000
    assert not any(line.startswith(("tests/server", "tests/browser")) for line in listed.splitlines())
