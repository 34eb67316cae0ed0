"""Packs what a machine with a card may lack, for measuring ComfyUI's modules and for writing videos there:

    python -m benchmarks.card.pack --into DIR

DIR is a folder that git ignores; `python -m benchmarks.card --comfyui DIR` finds everything in it. What is missing here
is said and left out, and so is what would not fit into the limit beside the checkout. Nothing of it is committed:
ComfyUI is GPL-3.0.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from benchmarks import ROOT

MIB = 2**20
LIMIT_MIB = 64
COMFYUI_PARTS = ("comfy", "utils", "node_helpers.py", "comfyui_version.py", "LICENSE")
"""What its model needs; not its server, nodes, examples and tests."""
BINARY = (".so", ".pyd", ".dll", ".dylib")
LARGEST_BINARY = MIB
"""Larger ones are kernels for cards, of 130 MB; the Triton kernels are sources."""
PACKAGES = ("comfy_kitchen", "comfy_aimdo")
WHEELS = ("av",)
FOR_ORIGINAL = ("diffusers",)
"""Which the original imports."""
UNUSED = {"diffusers": "diffusers/pipelines/"}
"""Folders of a wheel that no measurement imports, and which are most of it."""
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass
class Pack:
    """`room`: bytes that may still go in."""

    into: Path
    room: int
    write: Callable[[str], None] = print
    left_out: list[str] = field(default_factory=list)

    def add(self, name: str, files: Sequence[tuple[Path, Path]]) -> bool:
        """Copies files (from, to below the folder), or none of them when they would not fit."""
        size = sum(source.stat().st_size for source, _ in files)
        if not files:
            return self.miss(name, "it is not here")
        if size > self.room:
            return self.miss(name, f"its {size / MIB:.1f} MiB do not fit into the {self.room / MIB:.1f} that are left")
        for source, target in files:
            (self.into / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.into / target)
        self.room -= size
        self.write(f"packed {name}: {len(files)} files, {size / MIB:.1f} MiB")
        return True

    def miss(self, name: str, why: str) -> bool:
        self.left_out.append(name)
        self.write(f"left out {name}: {why}")
        return False


def comfyui(pack: Pack, folder: Path) -> bool:
    """Its sources, below ComfyUI/; not the tokenizers beside them, which no measurement needs."""
    if not (folder / "comfy").is_dir():
        return pack.miss("ComfyUI", f"{folder} is no ComfyUI; name its folder with --comfyui")
    files = [path for part in COMFYUI_PARTS for path in _files(folder / part)]
    kept = [path for path in files if path.suffix == ".py" or path.name == "LICENSE"]
    return pack.add("ComfyUI", [(path, Path("ComfyUI") / path.relative_to(folder)) for path in kept])


def original(pack: Pack, folder: Path) -> bool:
    """The original program's models, below original/."""
    inner = folder / "liveavatar" / "models" / "wan"
    if not (inner / "causal_model_s2v.py").is_file():
        return pack.miss("the original", f"{folder} has no liveavatar/models/wan; name a checkout's root")
    files = [path for path in _files(inner) if path.suffix == ".py"]
    return pack.add("the original", [(path, Path("original") / path.relative_to(folder)) for path in files])


def package(pack: Pack, name: str) -> bool:
    """An installed package without its large binaries, below packages/."""
    found = find_spec(name)
    folders = list(found.submodule_search_locations or []) if found is not None else []
    if not folders:
        return pack.miss(name, f"it is not installed for {sys.executable}")
    folder = Path(folders[0])
    kept = [path for path in _files(folder) if path.suffix not in BINARY or _small_for_cuda(path)]
    return pack.add(name, [(path, Path("packages") / name / path.relative_to(folder)) for path in kept])


def _small_for_cuda(path: Path) -> bool:
    return path.stat().st_size <= LARGEST_BINARY and "rocm" not in path.name


def wheel(pack: Pack, name: str) -> bool:
    """A package's wheel for the machine with the card, below wheels/; of the version that is installed here."""
    folder = pack.into / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = name if _version(name) is None else f"{name}=={_version(name)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "-d", str(folder), wanted]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob(f"{name}-*.whl"))
    try:
        if not wheels:
            return pack.miss(f"the wheel of {name}", f"pip gave none: {done.stderr.strip().splitlines()[-1:]}")
        if name in UNUSED:
            _leave_out(wheels[-1], UNUSED[name])
        return pack.add(f"the wheel of {name}", [(wheels[-1], Path("wheels") / wheels[-1].name)])
    finally:
        shutil.rmtree(folder)


def _leave_out(wheel: Path, folder: str) -> None:
    """Write a wheel anew without what is in a folder of it, the folder's own `__init__.py` excepted."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for entry in given.infolist():
            if not entry.filename.startswith(folder) or entry.filename == f"{folder}__init__.py":
                kept.writestr(entry.filename, given.read(entry))
    smaller.replace(wheel)


def tree_bytes(root: Path = ROOT) -> int:
    """Of the checkout as it travels: tracked files, and others that git does not ignore."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
    )
    paths = [root / name.decode() for name in listed.stdout.split(b"\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _files(path: Path) -> Iterator[Path]:
    """Of a file or a folder, without compiled Python and links."""
    if path.is_file():
        yield path
    for inner in sorted(path.rglob("*")) if path.is_dir() else []:
        if inner.is_file() and not inner.is_symlink() and "__pycache__" not in inner.parts:
            yield inner


def main(arguments: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """0 also when something was left out: what is there can be measured with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".comfyui" / "ComfyUI", metavar="DIR")
    parser.add_argument(
        "--original", type=Path, metavar="DIR", help="a checkout of the original program, if there is one"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, metavar="MIB", help="for all, the checkout included")
    parser.add_argument("--wheels", help="packages that travel as wheels; empty for none")
    options = parser.parse_args(arguments)
    there = {path.name for path in options.into.iterdir()} if options.into.exists() else set[str]()
    if there - {"ComfyUI", "original", "packages", "wheels"}:
        parser.error(f"{options.into} holds other things; name a folder that is new, or one that this made")
    shutil.rmtree(options.into, ignore_errors=True)
    options.into.mkdir(parents=True)
    # Python may write compiled files beside the sources on the other machine: that is beyond what travels.
    pack = Pack(options.into.resolve(), int(options.limit * MIB) - tree_bytes(), write)
    write(f"the checkout: {tree_bytes() / MIB:.1f} MiB")
    comfyui(pack, options.comfyui.resolve())
    if options.original is not None:
        original(pack, options.original.resolve())
    for name in PACKAGES:
        package(pack, name)
    usual = (*(FOR_ORIGINAL if options.original is not None else ()), *WHEELS)
    for name in usual if options.wheels is None else filter(None, options.wheels.split(",")):
        wheel(pack, name)
    write(f"{pack.room / MIB:.1f} MiB of {options.limit:g} are left. Measure with --comfyui {options.into}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
