"""The one copy of our packages in ComfyUI's process, under their own names.

ComfyUI imports a pack under the path of its folder. A package below that name would be a second one beside the
`liveavatar_runtime` that other programs import, with error classes and plans of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent


def provide_packages() -> None:
    """Make the packages beside this file importable by their names.

    The one for workers lies there in a checkout; else it may be installed by pip, or be missing. Raises ImportError
    when another copy is imported already: of two installed packs the second one is not loaded.
    """
    with _beside_this_file():
        import liveavatar_runtime
    _refuse_other_copy(liveavatar_runtime)
    if (ROOT / "liveavatar_workers" / "__init__.py").is_file():
        with _beside_this_file():
            import liveavatar_workers
        _refuse_other_copy(liveavatar_workers)


@contextmanager
def _beside_this_file() -> Iterator[None]:
    """Python looks here first inside, and not at all afterwards: a package remembers where its modules are."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path[:] = before


def _refuse_other_copy(package: ModuleType) -> None:
    folder = Path(str(package.__file__)).parent
    if folder.resolve() != (ROOT / package.__name__).resolve():
        raise ImportError(
            f"ComfyUI-LiveAvatar is installed twice: {package.__name__} is in use from {folder.resolve()}, and this "
            f"pack has its own in {(ROOT / package.__name__).resolve()}. Remove one of the two and start ComfyUI again."
        )
