"""The archive's pack in a real ComfyUI, without the package of workers and with it installed by pip."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from build_archive import build_archive
from comfy_server import ROOT, ComfyServer, make_base
from test_executors import last_frame, run, running_workers

COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
PACK = "live-avatar"
"""The registry's name, which is no name of a Python package."""
FSDP: dict[str, Any] = {"executor": "fsdp", "devices": "cpu,cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """With the registry's archive as the only pack."""
    base = make_base(tmp_path_factory.mktemp("base"))
    (installed,) = (base / "custom_nodes").iterdir()
    installed.unlink()
    archive = base / "pack.zip"
    build_archive(archive)
    with zipfile.ZipFile(archive) as content:
        assert not [name for name in content.namelist() if name.startswith("liveavatar_workers")]
        content.extractall(base / "custom_nodes" / PACK)
    return base


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that pip has installed the package into."""
    source, site = tmp_path_factory.mktemp("source") / "liveavatar_workers", tmp_path_factory.mktemp("site")
    shutil.copytree(
        ROOT / "liveavatar_workers", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*install, str(source)], check=True)
    return site


def test_without_the_package_workers_say_what_to_install_and_all_else_works(base, short_clip):
    with ComfyServer(COMFYUI, base) as comfy:
        check_what_the_page_gets(comfy, base / "custom_nodes" / PACK)
        last_frame(comfy, run(comfy, short_clip, "local", executor="local")[1])
        for choice, what in ((FSDP, "executor fsdp"), ({"workers": "studio"}, "workers")):
            told = told_by(comfy, short_clip, choice)
            assert f"{what} needs the package liveavatar_workers" in told
            assert (
                'python -m pip install "git+https://github.com/' in told and "subdirectory=liveavatar_workers" in told
            )


def test_installed_by_pip_it_uses_the_packs_runtime(base, site, short_clip, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    with ComfyServer(COMFYUI, base) as comfy:
        expected = last_frame(comfy, run(comfy, short_clip, "local", executor="local")[1])
        _, result = run(comfy, short_clip, "fsdp", **FSDP)
        assert (last_frame(comfy, result) == expected).all()
        for process in running_workers(comfy):
            assert str(base / "custom_nodes" / PACK) in process.environ()["PYTHONPATH"].split(os.pathsep)
        # An error of the package is the pack's own class: nodes know it, and ComfyUI shows its plain name.
        killed = []

        def kill_at_the_first_step(event) -> None:
            if event.kind == "preview" and not killed:
                ranks = [p for p in running_workers(comfy) if p.environ().get("RANK") == "1"]
                killed.extend(process.pid for process in ranks)
                for process in ranks:
                    psutil.Process(process.pid).kill()

        prompt = short_clip(num_clip=20, infer_frames=24, width=64, height=64, seed=77)
        prompt.set("LiveAvatar_LoadAvatarModel", **FSDP)
        result = comfy.client.run(prompt.nodes, on_event=kill_at_the_first_step)
        assert killed and result.error is not None
        assert "rank 1" in result.error["exception_message"]
        assert result.error["exception_type"] == "MachineError"


def test_another_version_is_refused_by_name(base, site, tmp_path):
    other = tmp_path / "site"
    shutil.copytree(site, other)
    (other / "liveavatar_workers" / "version.py").write_text('VERSION = "9.9.9"\n')
    path = os.pathsep.join([str(other), str(base / "custom_nodes" / PACK)])
    done = subprocess.run(
        [sys.executable, "-c", "import liveavatar_workers"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "liveavatar_workers is version 9.9.9 and ComfyUI-LiveAvatar is version 0.1.0; install the" in done.stderr


def check_what_the_page_gets(comfy: ComfyServer, pack: Path) -> None:
    """Every node with its page of help, every module of the front end, and every template come from the archive."""
    nodes = set(json.loads((pack / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")))
    assert nodes == {name for name in comfy.client.object_info() if name.startswith("LiveAvatar_")}
    assert nodes <= set(comfy.client.get("/i18n")["zh"]["nodeDefs"])
    served = set(comfy.client.get("/extensions"))
    assert {f"/extensions/{PACK}/{module.name}" for module in (pack / "web").glob("*.js")} <= served
    for node in nodes:
        assert comfy.client.request(f"/extensions/{PACK}/docs/{node}.md")
    templates = {graph.stem for graph in (ROOT / "workflows").glob("*.json")}
    assert set(comfy.client.get("/workflow_templates")[PACK]) == templates


def told_by(comfy, short_clip, choice) -> str:
    from comfy_client import PromptRefused

    try:
        return str(run(comfy, short_clip, "refused", **choice)[1].error)
    except PromptRefused as error:
        return str(error)
