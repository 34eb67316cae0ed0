"""One copy of the runtime in a process, however the pack is loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD = """
import importlib.util, sys
def load(folder):
    # As ComfyUI does: under a name made from the folder's path.
    name = folder.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
"""
PACK = """
from .packages import provide_packages
provide_packages()
from liveavatar_runtime.errors import InputError
"""


def make_pack(folder: Path) -> Path:
    """A pack of nothing but the runtime's errors, in a folder that is no name of Python."""
    (folder / "liveavatar_runtime").mkdir(parents=True)
    (folder / "__init__.py").write_text(PACK, encoding="utf-8")
    shutil.copy(ROOT / "packages.py", folder)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "liveavatar_runtime" / name, folder / "liveavatar_runtime")
    return folder


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    program = LOAD + "\n".join(lines)
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, encoding="utf-8")


def test_other_packages_import_the_pack_s_own_runtime(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "ComfyUI-LiveAvatar")
    done = run(
        f"pack = load({str(pack)!r})",
        "import liveavatar_runtime.errors",
        "assert liveavatar_runtime.errors.InputError is pack.InputError",
        "assert not [name for name in sys.modules if name.endswith('Avatar.liveavatar_runtime')]",
    )
    assert done.returncode == 0, done.stderr


def test_the_same_copy_may_be_imported_already(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "ComfyUI-LiveAvatar")
    done = run(
        f"sys.path.insert(0, {str(pack)!r})",
        "import liveavatar_runtime.errors",
        f"assert liveavatar_runtime.errors.InputError is load({str(pack)!r}).InputError",
    )
    assert done.returncode == 0, done.stderr


def test_a_second_copy_is_refused_by_name(tmp_path: Path) -> None:
    first, second = make_pack(tmp_path / "ComfyUI-LiveAvatar"), make_pack(tmp_path / "live-avatar")
    done = run(f"load({str(first)!r})", f"load({str(second)!r})")
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert "installed twice" in told and str(first) in told and str(second) in told and "Remove one" in told
