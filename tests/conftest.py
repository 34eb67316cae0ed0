"""Lets pytest see the checkout's root as a folder of tests: its `__init__.py` is for ComfyUI, which is not there."""

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


class PlainRoot:
    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PlainRoot())
