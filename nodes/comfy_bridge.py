"""The only place that touches ComfyUI's model management, folders, progress and interruption."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_execution.progress import get_progress_state
from torch import Tensor

from liveavatar_runtime.aligned import STAYS_ON_DISK
from liveavatar_runtime.checkpoint.known_hashes import KnownHashes
from liveavatar_runtime.disk import told
from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.errors import CheckpointError, InputError
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation

log = logging.getLogger("LiveAvatar")

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
    with told("there can be no temporary files in", root):
        root.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(dir=root, prefix="liveavatar-")
    try:
        yield Path(name)
    finally:
        # What another program still holds (a virus scanner, on Windows) is no reason to fail: ComfyUI empties `root`.
        with suppress(OSError):
            shutil.rmtree(name, ignore_errors=True)


def metadata_of(hidden: Any) -> dict[str, str]:
    """The prompt and workflow of a run, as ComfyUI stores them in files; nothing with --disable-metadata."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    values = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in values.items() if value is not None}


def patcher_for(module: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> Any:
    """ComfyUI's memory management around a module of ours."""
    return comfy.model_patcher.CoreModelPatcher(module, load_device=load_device, offload_device=offload_device)


def load_on_device(patcher: Any, working_bytes: int = 0, beside: Sequence[Any] = ()) -> torch.device:
    """Bring a model to its device, with so much memory free for the work; returns the device.

    The models of `beside` are needed at the same time, so they are not evicted to make room.
    """
    comfy.model_management.load_models_gpu([patcher, *beside], memory_required=working_bytes)
    return patcher.load_device


def temporary_root() -> Path:
    """ComfyUI's folder for temporary files, which it empties when it starts and ends."""
    return Path(folder_paths.get_temp_directory())


def own_device() -> torch.device:
    """The device that ComfyUI uses for models."""
    return comfy.model_management.get_torch_device()


def device_memory(device: torch.device) -> int:
    """Bytes of memory that a device has in all."""
    total: Any = comfy.model_management.get_total_memory(device)
    return int(total)


def tells_memory(device: torch.device) -> bool:
    """Whether ComfyUI knows how much memory a device has: of DirectML it always says 1 GiB."""
    return device.type == "cpu" or not comfy.model_management.directml_enabled


def on_disk_bytes(patcher: Any) -> int:
    """Bytes of a model's weights that stay in their file and are read whenever they are used."""
    # Since ComfyUI 0.18.
    if getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.model_size()
    weights = patcher.model.parameters()
    return sum(weight.nbytes for weight in weights if getattr(weight, STAYS_ON_DISK, False))


def free_ram() -> int:
    """Bytes of system memory that are free."""
    free: Any = comfy.model_management.get_free_memory(torch.device("cpu"))
    return int(free)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ComfyUI's choice of attention backend over [B, H, L, D].

    Its default for the CPU saves memory at the price of speed and of equality with other executors, so there it is
    PyTorch's own.
    """
    if q.device.type == "cpu":
        return sdpa(q, k, v)
    return optimized_attention(q, k, v, heads=q.shape[1], skip_reshape=True, skip_output_reshape=True)


COMFYUI_ATTENTION = "comfyui"


def attends_with_sage() -> bool:
    """Whether ComfyUI was started with SageAttention, which computes in 8 bits on GPUs."""
    return "sage" in optimized_attention.__name__


def stop_if_interrupted() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def make_room_for_others(devices: Sequence[torch.device]) -> None:
    """Take ComfyUI's models off GPUs that other processes are going to use; they come back when they are needed."""
    for device in {device for device in devices if device.type == "cuda"}:
        comfy.model_management.free_memory(device_memory(device), device)
        comfy.model_management.soft_empty_cache()


def make_room(device: torch.device, size: int) -> None:
    """Have so many bytes free on a GPU; models of ComfyUI that must go for it come back when they are needed."""
    if device.type == "cuda":
        comfy.model_management.free_memory(size, device)
        comfy.model_management.soft_empty_cache()


def show_text(node_id: str, text: str) -> None:
    """Show a text on a node while it runs, and in the log."""
    from server import PromptServer

    # A file's name may have bytes that are no text, which nobody can encode.
    text = text.encode(errors="backslashreplace").decode()
    log.info("%s", text)
    if PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)


class NodeProgress:
    """Progress of work that is done for a node, even while another one executes."""

    def __init__(self, node_id: str, total: int) -> None:
        self._node_id, self._total = node_id, total
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def advance_to(self, done: int, preview: Any = None) -> None:
        """Raises ComfyUI's interruption when the user has pressed the button."""
        stop_if_interrupted()
        self._bar.update_absolute(done, self._total, preview)
        if done >= self._total:
            get_progress_state().finish_progress(self._node_id)


def preparation(node_id: str, text: str) -> Callable[[int, int], None]:
    """Progress, as (done, total), of what a node does before its real work; shows the text, stops if interrupted."""
    bars: list[NodeProgress] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            show_text(node_id, text)
            bars.append(NodeProgress(node_id, total))
        bars[0].advance_to(done)

    return advance


_BETWEEN_STEPS: list[Callable[[], None]] = []


@contextmanager
def between_steps(call: Callable[[], None]) -> Iterator[None]:
    """Calls something after each sampling step, of whatever sampler is running; what it raises ends the sampling."""
    _BETWEEN_STEPS.append(call)
    try:
        yield
    finally:
        _BETWEEN_STEPS.remove(call)


class SamplingProgress:
    """Steps and previews of a stream, reported on the sampler's node."""

    PREVIEW_SIZE = 512

    def __init__(self, node_id: str, plan: ClipPlan, colours: Tensor) -> None:
        """colours: factors and bias [17, 3] of the VAE in use (`StreamingVAE.colours`)."""
        from latent_preview import Latent2RGBPreviewer

        self._previewer = Latent2RGBPreviewer(colours[:-1].tolist(), colours[-1].tolist())
        self._progress = NodeProgress(node_id, plan.evaluations)
        self._steps = plan.steps

    def __call__(self, evaluation: Evaluation) -> None:
        last = evaluation.step == self._steps - 1
        preview = self._preview(evaluation.clean()) if last else None
        self._progress.advance_to(evaluation.block * self._steps + evaluation.step + 1, preview)
        for call in tuple(_BETWEEN_STEPS):
            call()

    def _preview(self, latents: Tensor) -> tuple[str, Any, int]:
        """A picture of the block's last latent frame, without a VAE."""
        return "JPEG", self._previewer.decode_latent_to_preview(latents[None, :, -1:].float().cpu()), self.PREVIEW_SIZE


def published_colours() -> Tensor:
    """Factors and bias [17, 3] from latents to colours that ComfyUI has for the released Wan 2.1 VAE."""
    known = comfy.latent_formats.Wan21()
    return torch.tensor([*known.latent_rgb_factors, known.latent_rgb_factors_bias])


def tensors_of_vae(vae: Any) -> dict[str, Tensor]:
    """Weights of a ComfyUI VAE. Raises InputError when none is connected."""
    if vae is None:
        raise InputError(
            "no VAE: this model has none of its own. Connect Load VAE with wan_2.1_vae.safetensors to the vae input."
        )
    return vae.get_sd()


def vae_settings(vae: Any) -> tuple[torch.device, torch.device, torch.dtype]:
    """Device, waiting place and dtype that ComfyUI chose for a VAE."""
    return vae.device, comfy.model_management.vae_offload_device(), vae.vae_dtype
