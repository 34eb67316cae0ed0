"""The finishing's use of ComfyUI's models against ComfyUI's own nodes: the same pictures, frame by frame.

The architectures are real, the weights random: nothing here says how good a model is.
"""

import importlib
import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.tiny_models import write_interpolation_model, write_upscale_model
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.finishing.chain import FinishingChain
from liveavatar_runtime.finishing.frame_rate import MultiplyFrames
from liveavatar_runtime.finishing.step import FrameShape
from liveavatar_runtime.out_of_memory import DeviceFullError

ODD = Path(__file__).parents[1] / "server" / "odd_nodes" / "odd_finishing.py"
SHAPE = FrameShape(96, 80, Fraction(16))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bridge(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.finishing_models")


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 80, 96, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def upscaler(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As Load Upscale Model gives it."""
    import folder_paths
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    folder = tmp_path_factory.mktemp("upscale")
    write_upscale_model(folder / "tiny.safetensors")
    folder_paths.add_model_folder_path("upscale_models", str(folder))
    return UpscaleModelLoader.execute("tiny.safetensors").args[0]


def test_upscaling_is_core_s(bridge: ModuleType, upscaler: Any) -> None:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    theirs = ImageUpscaleWithModel.execute(upscaler, images(2)).args[0]
    enlarger, model = bridge.upscale_model(upscaler)
    ours = torch.cat([enlarger(picture[None].movedim(-1, 1)) for picture in images(2)]).clamp(0, 1)
    assert ours.shape == (2, 3, 160, 192) and torch.equal(ours.movedim(1, -1), theirs)
    assert model.patcher is upscaler.patcher and model.working_bytes(SHAPE) > 4 * 96 * 80 * 3 * 4
    nearest = images(1).movedim(-1, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert 0.001 < (ours[:1] - nearest).abs().mean() < 0.3, "the network does something"


def test_a_full_device_gets_smaller_tiles_and_then_advice(bridge: ModuleType, upscaler: Any) -> None:
    class Tight:
        """Finds no room for more than 64x64 pixels."""

        scale, model, room = 2, upscaler.model, 64

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            if max(image.shape[-2:]) > self.room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return upscaler(image)

    picture = images(1).movedim(-1, 1)
    enlarger, _ = bridge.upscale_model(Tight())
    made = enlarger(picture)
    assert enlarger.tile == 64
    whole = bridge.upscale_model(upscaler)[0](picture)
    # Where tiles overlap they are blended.
    assert made.shape == whole.shape and (made - whole).abs().max() < 0.05 and (made - whole).abs().mean() < 1e-3
    enlarger, _ = bridge.upscale_model(Tight())
    enlarger.model.room = 10
    with pytest.raises(DeviceFullError, match=r"upscaling a frame of 96x80 by 2.*fewer finishing steps"):
        enlarger(picture)


def rife(folder: Path) -> Any:
    from comfy_extras.nodes_frame_interpolation import FrameInterpolationModelLoader as Loader
    from safetensors.torch import load_file

    write_interpolation_model(folder / "rife.safetensors")
    net: Any = Loader._detect_and_load(load_file(folder / "rife.safetensors"))
    with torch.no_grad():
        for block in net.blocks:
            block.lastconv[0].weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
    return net


def film(folder: Path) -> Any:
    from comfy_extras.frame_interpolation_models.film_net import FILMNet

    torch.manual_seed(4)
    net = FILMNet()
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.01)
    return net


@pytest.mark.parametrize(("net_of", "factor"), [(rife, 4), (film, 2)])
def test_frames_between_are_core_s_and_the_last_one_is_held(
    bridge: ModuleType, net_of: Callable[[Path], Any], factor: int, tmp_path: Path
) -> None:
    import comfy.model_patcher
    from comfy_extras.nodes_frame_interpolation import FrameInterpolate

    cpu = torch.device("cpu")
    interpolator = comfy.model_patcher.CoreModelPatcher(net_of(tmp_path).eval(), load_device=cpu, offload_device=cpu)
    given = images(3)[:, :64, :64]
    with torch.inference_mode():
        theirs = FrameInterpolate.execute(interpolator, given, factor).args[0]
    net, model = bridge.interpolation_model(interpolator)
    run = FinishingChain((MultiplyFrames(lambda: bridge.ModelBetween(net), factor),)).begin(SHAPE)
    pixels = given.permute(3, 0, 1, 2).mul(2).sub(1)
    made = [*run.finish(pixels[:, :2]), *run.finish(pixels[:, 2:]), *run.flush()]
    ours = torch.cat(made, dim=1).add(1).div(2).permute(1, 2, 3, 0)
    assert ours.shape[0] == 3 * factor and theirs.shape[0] == 2 * factor + 1
    torch.testing.assert_close(ours[: 2 * factor + 1], theirs, rtol=0, atol=2e-5)
    assert all(torch.equal(frame, ours[-1]) for frame in ours[2 * factor :])
    assert (theirs[1] - (given[0] + given[1]) / 2).abs().max() > 1e-3, "more than a mean"
    assert model.working_bytes(SHAPE) >= 300 * 96 * 80 * 4


def test_a_mask_is_core_s(bridge: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location("odd_finishing", ODD)
    assert spec and spec.loader
    odd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(odd)
    core = odd.background_model()
    picture = torch.full((1, 80, 96, 3), 0.8)
    picture[:, 20:, 30:60] = torch.rand(60, 30, 3, generator=torch.Generator().manual_seed(5)) * 0.5
    mask, model = bridge.background_model(core)
    ours = mask(picture.movedim(-1, 1))
    assert torch.equal(ours, core.encode_image(picture))
    assert ours[0, 5, 5] < 0.05 and ours[0, 50, 45] > 0.95 and model.working_bytes(SHAPE) == 3 * 1024 * 128**2


def test_objects_of_another_kind_are_named(bridge: ModuleType) -> None:
    for read, text in (
        (bridge.upscale_model, "upscale_model is a Linear, which enlarges no pictures. Connect Load Upscale Model"),
        (bridge.background_model, "background_model is a Linear, which finds no background"),
        (bridge.interpolation_model, "interp_model is a Linear, which makes no frames between two"),
    ):
        with pytest.raises(InputError, match=text):
            read(torch.nn.Linear(1, 1))
        with pytest.raises(InputError, match="is nothing, which"):
            read(None)


def test_a_model_for_grey_pictures_is_refused(bridge: ModuleType) -> None:
    class Grey:
        scale, model, input_channels, output_channels = 2, torch.nn.Identity(), 1, 1

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return image

    with pytest.raises(InputError, match="takes 1 channels and gives 1; frames have 3"):
        bridge.upscale_model(Grey())
