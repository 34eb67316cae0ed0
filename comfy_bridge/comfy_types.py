"""ComfyUI's objects as far as this pack uses them: what comes over its sockets has no types of its own."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

Module_co = TypeVar("Module_co", covariant=True)
Hook = Callable[..., object]
"""A function that a node of another pack has put somewhere."""
Widgets = Mapping[str, object]
"""Values of a node's widgets in a prompt, and its links, by name."""


class Managed(Protocol[Module_co]):
    """A ModelPatcher: a module under ComfyUI's memory management."""

    load_device: torch.device

    @property
    def model(self) -> Module_co: ...

    def model_size(self) -> int:
        """Bytes of the weights."""
        ...

    def loaded_size(self) -> int:
        """Bytes of those that are on the load device."""
        ...


class TransformerOptions(TypedDict, total=False):
    """What nodes leave for the layers of a model."""

    optimized_attention_override: Hook
    patches: dict[str, list[Hook]]
    patches_replace: dict[str, dict[object, Hook]]
    wrappers: dict[str, dict[str | None, list[Hook]]]
    callbacks: dict[str, dict[str | None, list[Hook]]]


class ModelOptions(TypedDict, total=False):
    """`ModelPatcher.model_options`."""

    transformer_options: TransformerOptions


class CoreModel(Protocol):
    """Core's `BaseModel`, which holds a transformer."""

    diffusion_model: nn.Module
    manual_cast_dtype: torch.dtype | None

    def get_dtype(self) -> torch.dtype:
        """Of the weights."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...

    def named_buffers(self) -> Iterable[tuple[str, Tensor]]: ...


class S2VTree(Protocol):
    """Core's `WanModel_S2V`, as far as it tells its sizes."""

    casual_audio_encoder: "S2VAudioEncoder"
    audio_injector: "S2VAudioInjector"
    cond_encoder: nn.Conv3d
    patch_size: Sequence[int]


class S2VAudioEncoder(Protocol):
    weights: Tensor
    """[1, layers, 1, 1]: of each of wav2vec2's."""
    encoder: "S2VMotionEncoder"


class S2VMotionEncoder(Protocol):
    num_heads: int

    @property
    def conv1_local(self) -> "CausalConv": ...


class CausalConv(Protocol):
    conv: nn.Conv1d


class S2VAudioInjector(Protocol):
    injected_block_id: Mapping[int, int]


class Backup(Protocol):
    """A weight as it was before it was patched on the device."""

    weight: Tensor


class Patcher(Managed[CoreModel], Protocol):
    """A MODEL: core's ModelPatcher around a diffusion model."""

    size: int
    patches: dict[str, list[tuple[object, ...]]]
    patches_uuid: object
    backup: Mapping[str, Backup]
    model_options: ModelOptions
    object_patches: dict[str, object]
    object_patches_backup: dict[str, object]
    weight_wrapper_patches: dict[str, list[Hook]]
    wrappers: dict[str, dict[str | None, list[Hook]]]
    callbacks: dict[str, dict[str | None, list[Hook]]]
    injections: dict[str, list[object]]
    additional_models: dict[str, list[object]]
    hook_patches: Iterable[object]
    cached_patcher_init: tuple[object, ...] | None

    def clone(self) -> "Patcher": ...

    def deepclone_multigpu(self, new_load_device: torch.device) -> "Patcher":
        """Raises RuntimeError when the model cannot be loaded once more."""
        ...

    def get_model_object(self, name: str) -> nn.Module: ...

    def model_state_dict(self) -> dict[str, Tensor]: ...

    def add_patches(self, patches: Mapping[str, object], strength_patch: float) -> Iterable[str]:
        """Returns the names of the weights that will be patched."""
        ...


class Vae(Protocol):
    """A VAE: core's, of whatever loader. first_stage_model: its module, of a class for each kind of VAE."""

    device: torch.device
    vae_dtype: torch.dtype
    first_stage_model: object

    def get_sd(self) -> dict[str, Tensor]: ...


class AudioEncoder(Protocol):
    """An AUDIO_ENCODER: core's wav2vec2, or that of a bundle."""

    def encode_audio(self, audio: Tensor, sample_rate: int) -> "EncodedAudio":
        """audio [1, C, S]"""
        ...


class Clip(Protocol):
    """CLIP: a text encoder, as CLIP Text Encode uses it."""

    def tokenize(self, text: str) -> object: ...

    def encode_from_tokens_scheduled(self, tokens: object) -> object:
        """A CONDITIONING."""
        ...


class EncodedAudio(TypedDict):
    """[1, frames, width]: the last hidden state and, if the encoder gives them, all; samples at 16 kHz."""

    encoded_audio: Tensor
    encoded_audio_all_layers: Sequence[Tensor] | None
    audio_samples: int


class UpscaleModel(Protocol):
    """An UPSCALE_MODEL: spandrel's ImageModelDescriptor. input_channels, output_channels: of its pictures."""

    scale: int
    model: nn.Module

    def __call__(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 3, H * scale, W * scale]"""
        ...


class BackgroundModel(Protocol):
    """A BACKGROUND_REMOVAL: core's BackgroundRemovalModel. The module takes pictures [B, 3, image_size, image_size] and
    gives scores, of which the sigmoid is the mask."""

    patcher: Managed[nn.Module]
    model: nn.Module
    image_size: int
    image_mean: Sequence[float]
    image_std: Sequence[float]


class InterpolationNet(Protocol):
    """Core's IFNet (RIFE) or FILMNet. pad_align: sides must be multiples of it, where it is there."""

    def extract_features(self, img: Tensor) -> object: ...

    def __call__(self, img0: Tensor, img1: Tensor, timestep: Tensor, cache: dict[str, object]) -> Tensor:
        """[1, 3, H, W] in 0..1, and times [1, 1, H, W] between them -> the frame there."""
        ...

    def memory_used_forward(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Bytes for frames [T, H, W, C]."""
        ...


class InterpolationModel(Protocol):
    """An INTERP_MODEL: core's ModelPatcher around a net that makes frames between two."""

    load_device: torch.device

    @property
    def model(self) -> InterpolationNet: ...

    def model_dtype(self) -> torch.dtype: ...


class Video(Protocol):
    """A VIDEO."""

    def get_stream_source(self) -> str | BytesIO: ...

    def save_to(self, path: str) -> object: ...


class NodeInputs(TypedDict):
    class_type: str
    inputs: dict[str, object]
    """Values of widgets, and links as [node, output]."""


class PromptNode(NodeInputs, total=False):
    """A node of a prompt."""

    _meta: dict[str, str]


Prompt = Mapping[str, PromptNode]
"""The nodes of a prompt by id."""


class Request(TypedDict, total=False):
    """What a client sends to have a prompt run."""

    prompt: Prompt
    partial_execution_targets: Sequence[str]


class Server(Protocol):
    """ComfyUI's server, as far as a running node talks to pages."""

    client_id: str | None
    """Of the page that has sent the prompt; None where nobody listens."""
    loop: AbstractEventLoop

    def send_sync(self, event: str, data: object, sid: str | None = None) -> None:
        """From any thread."""
        ...


class Hidden(Protocol):
    """What a node is told of its run beside its inputs."""

    unique_id: str
    """Of the node."""
    prompt: Prompt
    extra_pnginfo: Mapping[str, object] | None
    """The workflow, for files."""
