"""ComfyUI's folders: models, temporary files, the user's own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import folder_paths

from liveavatar_runtime.checkpoint.known_hashes import KnownHashes
from liveavatar_runtime.disk import told
from liveavatar_runtime.errors import CheckpointError

BUNDLE_FOLDER = "liveavatar"
"""Model folder of whole models (bundles): models/liveavatar, and the pack's own demo/."""
GGUF_FILES = "unet_gguf"
"""Files of the diffusion model folders that ComfyUI itself does not list."""
PACK_ROOT = Path(__file__).parents[1]


def register_folders() -> None:
    """Make `models/liveavatar` and the embedded demo model known to ComfyUI."""
    folder_paths.add_model_folder_path(BUNDLE_FOLDER, str(Path(folder_paths.models_dir) / BUNDLE_FOLDER))
    folder_paths.add_model_folder_path(BUNDLE_FOLDER, str(PACK_ROOT / "demo"))
    # Under the key that ComfyUI-GGUF uses too, for the same files.
    files = folder_paths.folder_names_and_paths["diffusion_models"][0], {".gguf"}
    folder_paths.folder_names_and_paths.setdefault(GGUF_FILES, files)


def bundle_folders() -> dict[str, Path]:
    """Whole models by name; of two with one name the first folder's counts, as in all of ComfyUI."""
    from liveavatar_runtime.checkpoint.bundle import is_bundle

    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(BUNDLE_FOLDER)):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if is_bundle(folder):
                found.setdefault(folder.name, folder)
    return found


def model_files() -> list[str]:
    return folder_paths.get_filename_list("diffusion_models") + folder_paths.get_filename_list(GGUF_FILES)


def diffusion_model_path(name: str) -> Path:
    return model_path(GGUF_FILES if name.lower().endswith(".gguf") else "diffusion_models", name)


def lora_files() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_paths() -> dict[str, Path]:
    """The LoRA files by the names that widgets show."""
    paths = {name: folder_paths.get_full_path("loras", name) for name in lora_files()}
    return {name: Path(path) for name, path in paths.items() if path}


def maps_files() -> bool:
    """Whether weight files may be mapped; with --disable-mmap they are read into memory."""
    from comfy.cli_args import args

    return not args.disable_mmap


def model_path(folder: str, name: str) -> Path:
    """Of a name from a list. Raises CheckpointError when nothing that can be read is there any more."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        roots = ", ".join(folder_paths.get_folder_paths(folder))
        raise CheckpointError(
            f"{name} is no file in {roots}: it was moved or removed since, or it is a link whose target is not there. "
            "Put the file itself there, or choose another one (R reads the lists anew)."
        )
    return Path(path)


def user_file(name: str) -> Path:
    """A file in ComfyUI's user folder, which the browser does not get."""
    return Path(folder_paths.get_user_directory()) / name


def hashes_folder() -> Path:
    """Where hashes of weight files are remembered, beside the spools."""
    return user_file("__liveavatar_hashes")


def known_hashes() -> KnownHashes:
    return KnownHashes(hashes_folder())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for files that nobody needs afterwards, in ComfyUI's folder for them."""
    root = Path(folder_paths.get_temp_directory())
    with told("there can be no temporary files in {place}", root):
        root.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(dir=root, prefix="liveavatar-")
    with ExitStack() as stack:
        stack.callback(_remove_folder, name)
        yield Path(name)


def _remove_folder(name: str) -> None:
    # What another program still holds (a virus scanner, on Windows) is no reason to fail: ComfyUI empties its root.
    with suppress(OSError):
        shutil.rmtree(name, ignore_errors=True)


def temporary_root() -> Path:
    """ComfyUI's folder for temporary files, which it empties when it starts and ends."""
    return Path(folder_paths.get_temp_directory())
