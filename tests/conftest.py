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


class PlainRoot:
    """Lets pytest see the checkout's root as a folder: its `__init__.py` is for ComfyUI, which is not there."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PlainRoot())


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
