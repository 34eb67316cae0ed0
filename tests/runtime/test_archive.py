"""The archive of the registry: what is in it, that its scanner finds nothing there, and what the registry is told."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from archive_rules import RULES, findings
from build_archive import build_archive, found_in
from PIL import Image
from project_toml import PYPROJECT

ROOT = Path(__file__).parents[2]
TOP = {
    *("CHANGELOG.md", "LICENSE", "README.md", "README.zh.md", "SECURITY.md"),
    *("__init__.py", "packages.py", "pyproject.toml", "requirements.txt"),
    *("comfy_bridge", "liveavatar_runtime", "nodes"),
    *("demo", "docs", "locales", "subgraphs", "web", "workflows"),
}
"""All that may be at the archive's top."""
NEEDED = (
    "demo/liveavatar-demo/diffusion_pytorch_model.safetensors",
    "demo/conversation.wav",
    "demo/portrait.png",
    "demo/two_people.png",
    "demo/voice.wav",
    "locales/en/nodeDefs.json",
    "locales/zh/nodeDefs.json",
    "subgraphs/Talking Avatar.json",
    "web/docs/LiveAvatar_DiTSampler.md",
    "web/notes.js",
    "workflows/avatar_14b.jpg",
    "workflows/short_clip.json",
)
FLAGGED = (
    ("a.py", "python_network_operations", "sock.sendall(data)"),
    ("a.py", "python_network_operations", "import socket"),
    ("a.js", "python_network_operations", "const f = g.bind(this);"),
    ("a.md", "python_network_operations", "Call `node.connect (1)`."),
    ("a.py", "python_environment_manipulation", "# reads os.environ"),
    ("a.py", "python_command_injection_risk", "import subprocess"),
    ("a.py", "python_url_command_execution", "'as ffmpeg -i does'"),
    ("a.py", "python_dynamic_execution", "x = eval(text)"),
    ("a.py", "python_dynamic_execution", "mx.eval(array)"),
    ("a.py", "python_dynamic_execution", "importlib.import_module(name)"),
    ("a.js", "javascript_dynamic_execution", "new Function(text)"),
    ("a.js", "javascript_markup", "box.innerHTML = text;"),
    ("a.js", "javascript_addresses", "fetch('https://example.org')"),
    ("a.py", "unsafe_deserialization", "torch.load(path)"),
    ("a.py", "runtime_package_install", "[python, '-m', 'pip', 'install', name]"),
    ("a.py", "native_calls", "import ctypes"),
    ("a.py", "obfuscated_code", "base64.b64decode(text)"),
    ("a.py", "python_privilege_escalation", "'sudo apt'"),
    ("a.sh", "contains_rm_rf", "rm -rf build"),
    ("requirements.txt", "contains_custom_url_dependency", "name @ https://example.org/name.whl"),
    ("a.js", "contains_blacklisted_url", "raw.githubusercontent.com/a/b"),
    ("a.json", "credentials", "HF_TOKEN"),
)
"""A file, the rule that must find something in it, and a line of it."""
HARMLESS = (
    ("a.py", "model.eval()"),
    ("a.py", "re.compile(r'a')"),
    ("a.py", "torch.compile(model)"),
    ("a.py", "isinstance(value, types.CodeType)"),
    ("a.py", "python -m pip install name"),
    ("a.js", "pattern.exec(text)"),
    ("a.md", "https://github.com/a/b"),
    ("a.safetensors", "os.system"),
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("archive") / "pack.zip"
    build_archive(target)
    return target


@pytest.fixture(scope="module")
def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as content:
        return content.namelist()


def test_the_registry_s_scanner_finds_nothing(archive: Path) -> None:
    assert found_in(archive) == []


@pytest.mark.parametrize(("name", "rule", "line"), FLAGGED)
def test_each_rule_finds_what_it_is_for(name: str, rule: str, line: str) -> None:
    assert any(found.startswith(f"{name}:1: {rule}: ") for found in findings(name, line.encode()))


def test_every_rule_has_an_example() -> None:
    assert {rule for _, rule, _ in FLAGGED} == {rule.name for rule in RULES}


@pytest.mark.parametrize(("name", "line"), HARMLESS)
def test_what_every_pack_does_is_no_finding(name: str, line: str) -> None:
    assert findings(name, line.encode()) == []


def test_users_get_what_they_need_and_no_more(archive: Path, names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == TOP
    assert set(NEEDED) <= set(names)
    assert [name for name in names if name.startswith("demo/") and name.endswith((".py", ".txt"))] == []
    assert not [name for name in names if "training" in name or "__pycache__" in name]
    assert archive.stat().st_size < 8 * 2**20


def test_the_same_files_give_the_same_archive(archive: Path, tmp_path: Path) -> None:
    build_archive(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_names_can_be_written_on_every_system_and_by_the_registry_s_tool(names: list[str]) -> None:
    # `comfy node publish` asks git without -z, which puts other names in quotation marks.
    assert all(re.fullmatch(r"[A-Za-z0-9 ._/-]+", name) for name in names)
    assert len({name.lower() for name in names}) == len(names)


def test_every_node_is_in_a_template() -> None:
    """As ComfyUI's public pack tester asks; it does not know V3 nodes, so it finds none of them."""
    defined = set(json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")))
    graphs = [*(ROOT / "workflows").glob("*.json"), *(ROOT / "subgraphs").glob("*.json")]
    used = {name for graph in graphs for name in re.findall(r'"(LiveAvatar_\w+)"', graph.read_text(encoding="utf-8"))}
    assert len(defined) >= 9 and defined <= used


def test_the_registry_is_told_what_it_asks_for(names: list[str]) -> None:
    """What `comfy node validate` and the registry's specification of pyproject.toml ask."""
    project, comfy = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", project["name"]) and len(project["name"]) < 100
    assert not project["name"].startswith("comfy")
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"]["file"] in names and project["readme"] in names
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r"(?:[<>=!~]=?)?\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert not [line for line in project["dependencies"] if "@" in line or "://" in line]


def test_classifiers_are_those_that_the_registry_reads() -> None:
    known = {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal"}
    classifiers = PYPROJECT["project"]["classifiers"]
    cards = {line.removeprefix("Environment :: GPU :: ") for line in classifiers if line.startswith("Environment :: ")}
    assert cards and cards <= known
    assert "Operating System :: OS Independent" in classifiers


@pytest.mark.parametrize(("key", "across", "down"), [("Icon", 1, 1), ("Banner", 21, 9)])
def test_pictures_have_the_registry_s_aspect(key: str, across: int, down: int) -> None:
    branch = "https://raw.githubusercontent.com/liveavatar/ComfyUI-LiveAvatar/main/"
    address = PYPROJECT["tool"]["comfy"][key]
    assert address.startswith(branch)
    with Image.open(ROOT / address.removeprefix(branch)) as picture:
        width, height = picture.size
        assert picture.format == "PNG"
    assert width * down == height * across and (key == "Banner" or width <= 400)
