"""The one copy of our packages in ComfyUI's process, under their own names.

ComfyUI imports a pack under the path of its folder. A package below that name would be a second one beside the
`liveavatar_runtime` that other programs import, with error classes and plans of its own.
"""

import importlib.util
import sys
from pathlib import Path

RUNTIME, WORKERS = "liveavatar_runtime", "liveavatar_workers"
ROOT = Path(__file__).parent


def provide_packages() -> None:
    """Make the packages beside this file importable by their names.

    The one for workers lies there in a checkout; else it may be installed by pip, or be missing. Raises ImportError
    when another copy is imported already: of two installed packs the second one is not loaded.
    """
    _provide(RUNTIME)
    if (ROOT / WORKERS / "__init__.py").is_file():
        _provide(WORKERS)


def _provide(name: str) -> None:
    there = sys.modules.get(name)
    if there is not None:
        _refuse_other_copy(name, Path(str(there.__file__)).parent)
        return
    folder = ROOT / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _refuse_other_copy(name: str, folder: Path) -> None:
    if folder.resolve() != (ROOT / name).resolve():
        raise ImportError(
            f"ComfyUI-LiveAvatar is installed twice: {name} is in use from {folder.resolve()}, and this pack has its "
            f"own in {(ROOT / name).resolve()}. Remove one of the two and start ComfyUI again."
        )
