"""The container and the manifest: nothing here builds or runs them, so their steps and their fields are looked at."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import run_workflow
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
MANIFEST = ROOT / "docker" / "kubernetes.yaml"
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))


def steps() -> list[tuple[str, str]]:
    """(instruction, the rest of its line)."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def ignored() -> list[str]:
    return (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_base_is_an_argument_and_packages_come_from_pypi_alone() -> None:
    assert steps()[0][0] == "ARG" and steps()[1] == ("FROM", "${BASE}")
    commands = [rest for kind, rest in steps() if kind == "RUN"]
    assert not any(re.search(r"https?://|apt|curl|wget|git |index-url", command) for command in commands)
    assert [command for command in commands if "install" in command] == []


def test_what_is_prepared_needs_only_what_was_copied_before(tmp_path: Path) -> None:
    """With this ComfyUI and this Python, which lack nothing: what it would download and install is here."""
    ran = 0
    for kind, rest in steps():
        if kind == "COPY":
            *sources, target = rest.split()
            for source in sources if sources != ["."] else []:
                assert (ROOT / source).exists() and not any(source.startswith(name) for name in ignored())
                place = tmp_path / target / ("" if (ROOT / source).is_dir() else Path(source).name)
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
                copy(ROOT / source, place)
        elif kind == "RUN" and not ran:
            ran += 1
            words = rest.split()
            assert words[0] == "python3"
            done = run([sys.executable, *words[1:]], tmp_path, COMFYUI_PATH=str(COMFYUI), COMFYUI_PYTHON=sys.executable)
            assert done.returncode == 0 and "Ready" in done.stderr, done.stderr
    assert ran == 1


@pytest.mark.not_on_windows
def test_the_pack_is_linked_into_the_base_folder(tmp_path: Path) -> None:
    (command,) = (rest for kind, rest in steps() if kind == "RUN" and "make_base" in rest)
    match = re.fullmatch(r'python3 -c "(.*)"', command)
    assert match
    done = run([sys.executable, "-c", match[1].replace("/srv/comfyui", str(tmp_path / "base"))], ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "base" / "custom_nodes" / "ComfyUI-LiveAvatar" / "nodes").is_dir()
    assert (tmp_path / "base" / "models").is_dir()


def test_comfyui_knows_the_arguments_of_the_server() -> None:
    (words,) = (json.loads(rest) for kind, rest in steps() if kind == "CMD")
    assert words[0].endswith("/.venv/bin/python") and words[1] == "main.py"
    usage = run([sys.executable, "main.py", "--help"], COMFYUI).stdout
    assert all(f"{word} " in usage or f"{word}\n" in usage for word in words if word.startswith("--")), usage


def documents() -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


def test_names_ports_and_claims_of_the_manifest_fit_each_other() -> None:
    service, servers, job = (documents()[kind] for kind in ("Service", "StatefulSet", "Job"))
    labels = servers["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == servers["spec"]["selector"]["matchLabels"]
    assert servers["spec"]["serviceName"] == service["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    for pod in (servers["spec"]["template"]["spec"], job["spec"]["template"]["spec"]):
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (server,) = servers["spec"]["template"]["spec"]["containers"]
    assert server["ports"] == [{"containerPort": port["port"]}] and server["readinessProbe"]["httpGet"]["port"] == 8188
    assert all(mount["mountPath"].startswith("/srv/comfyui/") for mount in server["volumeMounts"])
    (batch,) = job["spec"]["template"]["spec"]["containers"]
    assert batch["image"] == server["image"]
    python, script, *arguments = batch["command"]
    assert python == ".venv/bin/python" and (ROOT / script).is_file()
    options = run_workflow.parse_arguments(arguments)
    name = servers["metadata"]["name"]
    expected = [f"http://{name}-{i}.{service['metadata']['name']}:8188" for i in range(servers["spec"]["replicas"])]
    assert options.server == expected


def missing(mine: Any, known: Any, place: str = "") -> list[str]:
    """Places of what is in `mine` and not in `known`."""
    if isinstance(mine, dict) and isinstance(known, dict):
        return [found for key in mine for found in missing(mine[key], known.get(key), f"{place}.{key}")]
    if isinstance(mine, list) and isinstance(known, list) and len(mine) == len(known):
        return [
            found for i, pair in enumerate(zip(mine, known, strict=True)) for found in missing(*pair, f"{place}[{i}]")
        ]
    return [] if mine == known else [place]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubernetes_knows_every_field(tmp_path: Path) -> None:
    """`kubectl` reads objects into its own types and writes them again, without what these do not have."""

    def unknown(text: str) -> list[str]:
        path = tmp_path / "manifest.yaml"
        path.write_text(text, encoding="utf-8")
        done = run(["kubectl", "label", "--local", "-f", str(path), "checked=yes", "-o", "json"], tmp_path)
        assert done.returncode == 0, done.stderr
        image = ["kubectl", "set", "image", "--local", "-f", str(path), "*=checked", "-o", "yaml"]
        known = {found["kind"]: found for found in yaml.safe_load_all(run(image, tmp_path).stdout) if found}
        mine = {found["kind"]: found for found in yaml.safe_load_all(text)}
        return [place for kind in known for place in missing(mine[kind], known[kind], kind) if "image" not in place]

    text = MANIFEST.read_text(encoding="utf-8")
    assert unknown(text) == []
    broken = unknown(text.replace("serviceName", "serviceNam").replace("backoffLimit", "backOffLimit"))
    assert broken == ["StatefulSet.spec.serviceNam", "Job.spec.backOffLimit"]
