"""The releases that are written in several places are one."""

import re
from pathlib import Path

import liveavatar_runtime
from liveavatar_workers.version import VERSION

ROOT = Path(__file__).parents[2]


def test_pack_runtime_and_workers_have_one_version():
    files = (ROOT / "pyproject.toml", ROOT / "liveavatar_workers" / "pyproject.toml")
    written = {one for file in files for one in re.findall(r'^version = "(.+)"$', file.read_text("utf-8"), re.M)}
    assert written == {VERSION} == {liveavatar_runtime.VERSION}


def test_all_packages_of_the_workers_are_installed():
    text = (ROOT / "liveavatar_workers" / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'^    "(liveavatar_workers[\w.]*)",$', text, re.M))
    found = {file.parent.relative_to(ROOT) for file in (ROOT / "liveavatar_workers").rglob("__init__.py")}
    assert named == {".".join(path.parts) for path in found if "build" not in path.parts}
