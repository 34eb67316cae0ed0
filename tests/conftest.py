"""One real ComfyUI with this checkout and the tests' own nodes as its packs, for all tests that need one."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from comfy_server import ComfyServer, make_base

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "tests" / "artifacts"
ODD_NODES = ROOT / "tests" / "server" / "odd_nodes"
SLOW_FOLDERS = ("server", "browser", "comfy_parity")
SLOW_OF_RUNTIME = [
    "aligned",
    "attention_backends",
    "audio_encoder",
    "big_models",
    "block_run",
    "call_depth",
    "card",
    "cause_of_nan",
    "compile",
    "decoder_rank",
    "demo_bundle",
    "demo_talking",
    "demo_training",
    "docker",
    "faults",
    "files_in_use",
    "join",
    "killed",
    "latent_stream",
    "lost_output",
    "measured",
    "media_codecs",
    "media_video",
    "online_video",
    "out_of_memory",
    "packages",
    "pipeline",
    "pipelines",
    "plan_check",
    "portable",
    "scripts",
    "segment_frames",
    "several_machines",
    "spool_budget",
    "spool_damage",
    "staged_cache",
    "torchrun",
    "vae_preview",
    "vae_streaming",
    "weights_key",
    "wire",
    "worker_failures",
    "workers",
]
"""Files of `tests/runtime` that start processes, encode videos or compute for long."""
LONGEST = [
    "worker_failures",
    "workers",
    "faults",
    "torchrun_workers",
    "decoder_rank",
    "torchrun",
    "workers_package",
    "compile",
    "call_depth",
    "headless",
    "several_machines",
    "killed",
    "card",
    "executors",
    "spool",
]
"""Files that a run begins with: one of them at its end would keep a single core busy while the others have nothing."""
FAST = "not slow"
"""The choice of `scripts/test.sh --fast`."""


class PlainRoot:
    """Lets pytest see the checkout's root as a folder: its `__init__.py` is for ComfyUI, which is not there."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PlainRoot())
    # Of pytest-xdist: the order of files is ours, not that of their numbers of tests.
    config.option.loadscopereorder = False


def is_slow(path: Path) -> bool:
    """Whether all tests of a file or a folder have the mark `slow`."""
    folder, *_ = path.relative_to(ROOT / "tests").parts or ("",)
    return folder in SLOW_FOLDERS or (folder == "runtime" and path.stem.removeprefix("test_") in SLOW_OF_RUNTIME)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What would be left out anyway is not imported, which takes longer than many tests."""
    return True if config.option.markexpr == FAST and is_slow(collection_path) else None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with a base folder of its own. A node file that cannot be imported is an error here."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    assert (comfyui / "main.py").is_file(), f"no ComfyUI in {comfyui}: run bash scripts/test.sh, or set COMFYUI_PATH"
    with ComfyServer(comfyui, make_base(tmp_path_factory.mktemp("comfyui"), [ODD_NODES])) as running:
        yield running
    ARTIFACTS.mkdir(exist_ok=True)
    process = os.environ.get("PYTEST_XDIST_WORKER", "")
    shutil.copyfile(running.log, ARTIFACTS / f"server{process}.log")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of the server's log, where the traceback of a node is."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(running, ComfyServer):
        report.sections.append(("ComfyUI's log", running.log_text()))
    return report
