"""The one copy of the runtime in ComfyUI's process, under its own name.

ComfyUI imports a pack under the path of its folder. A runtime below that name would be a second package beside the
`liveavatar_runtime` that other programs import, with error classes and plans of its own.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "liveavatar_runtime"
FOLDER = Path(__file__).parent / NAME


def provide_runtime() -> None:
    """Make the runtime beside this file importable by its name.

    Raises ImportError when another copy is imported already: of two installed packs the second one is not loaded.
    """
    there = sys.modules.get(NAME)
    if there is not None:
        _refuse_other_copy(Path(str(there.__file__)).parent)
        return
    spec = importlib.util.spec_from_file_location(
        NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[NAME]
        raise


def _refuse_other_copy(folder: Path) -> None:
    if folder.resolve() != FOLDER.resolve():
        raise ImportError(
            f"ComfyUI-LiveAvatar is installed twice: {NAME} is in use from {folder.resolve()}, and this pack has its "
            f"own in {FOLDER.resolve()}. Remove one of the two and start ComfyUI again."
        )
