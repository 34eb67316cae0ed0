"""What other systems do differently, as far as Linux can show it: encodings, modules and links that they lack."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import comfy_server
import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("liveavatar_runtime", "comfy_bridge", "nodes", "demo", "scripts")
ONLY_POSIX = ("fcntl", "resource", "pwd", "grp", "termios", "posix", "tty", "pty")
NOT_IN_EVERY_PYTORCH = "torch._C._distributed_c10d"
"""PyTorch's ROCm builds for Windows lack it."""
LINES = ("scripts/demo.sh", "scripts/prepare.sh", "scripts/test.sh", ".ci/run", "requirements.txt", "README.md")


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text, as far as its name and arguments tell."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    words = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output") and owner == "subprocess":
        return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    if name == "fdopen" or (name == "open" and not owner):
        return not any("b" in word for word in words)
    # Methods of that name of other things than paths take no mode such as "w".
    return (
        name == "open" and owner not in ("os", "av", "wave", "Image") and any(w in ("r", "w", "a", "x") for w in words)
    )


def test_text_has_an_encoding_everywhere() -> None:
    """Without one Windows reads and writes its own code page, which lacks most names of files."""
    found = []
    for path in modules(*SHIPPED):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not opens_text(node):
                continue
            if "encoding" not in {keyword.arg for keyword in node.keywords}:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not found, "\n".join(found)


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it; relative ones as their names from the root."""
    names: set[str] = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


def import_without(missing: tuple[str, ...], wanted: list[str]) -> None:
    """Import modules in a process that is told to be Windows and lacks others, once the libraries are loaded."""
    program = (
        "import json, os, pathlib, sys; missing, wanted = json.loads(sys.argv[1])\n"
        "import torch._dynamo, torch.distributed.fsdp, torch.distributed.launcher.api, torch.distributed.device_mesh\n"
        "import psutil, filelock, tempfile, subprocess, multiprocessing, av, numpy, importlib\n"
        "sys.modules.update(dict.fromkeys(missing), msvcrt=type(sys)('msvcrt'))\n"
        "sys.platform, os.name, pathlib.WindowsPath = 'win32', 'nt', pathlib.PosixPath\n"
        "[importlib.import_module(name) for name in wanted]\n"
    )
    command = [sys.executable, "-c", program, json.dumps([missing, wanted])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_the_runtime_imports_no_module_that_windows_lacks() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules("liveavatar_runtime")]
    import_without(ONLY_POSIX, [name.removesuffix(".__init__") for name in names])


def test_the_nodes_need_no_distributed_pytorch() -> None:
    """Only worker processes do, which the nodes start."""
    wanted = {
        name
        for path in modules("comfy_bridge", "nodes")
        for name in imported(path)
        if name.startswith("liveavatar_runtime")
    }
    assert len(wanted) > 30
    import_without((NOT_IN_EVERY_PYTORCH,), sorted(wanted))


def test_nodes_and_scripts_import_no_module_that_windows_lacks() -> None:
    found = {
        str(path): imported(path) & set(ONLY_POSIX) for path in modules("comfy_bridge", "nodes", "scripts", "demo")
    }
    assert not any(found.values()), found


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not a checkout")
def test_git_for_windows_leaves_the_ends_of_lines_alone(tmp_path: Path) -> None:
    """With the setting that its installer proposes."""
    options = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    command = ["git", *options, "checkout-index", "--force", f"--prefix={tmp_path}/", "--", *LINES]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in LINES:
        content = (tmp_path / name).read_bytes()
        assert content and b"\r" not in content, name


@pytest.mark.parametrize("may_link", [True, False])
def test_a_server_has_the_pack_also_where_links_need_a_privilege(may_link, monkeypatch, tmp_path: Path) -> None:
    if not may_link:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(22, "A required privilege is not held by the client", None, 1314)

        monkeypatch.setattr(Path, "symlink_to", refuse)
    pack = tmp_path / "pack"
    for name in ("nodes/one.py", ".git/config", "tests/two.py"):
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text("first", encoding="utf-8")
    monkeypatch.setattr(comfy_server, "ROOT", pack)
    for content in ("second", "third"):
        (pack / "nodes" / "one.py").write_text(content, encoding="utf-8")
        place = comfy_server.make_base(tmp_path / "base") / "custom_nodes" / comfy_server.PACK_NAME
        assert (place / "nodes" / "one.py").read_text(encoding="utf-8") == content
    assert place.is_symlink() == may_link and (place / ".git").exists() == may_link
    assert os.path.isdir(place)
