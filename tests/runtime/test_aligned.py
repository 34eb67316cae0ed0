"""Weights that lie at odd places in memory, on purpose: every executor gives the same bits as with allocated ones.

Workers are compared the same way in test_workers.py, whose model file starts at an odd offset too.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_weights import randomised
from tiny_avatar import CONFIG, PLAN, random_conditions, random_model
from torch import Tensor, nn
from worker_group import save_at

from liveavatar_runtime.aligned import ALIGNMENT, align_weights, aligned, is_aligned
from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.checkpoint.offload import is_on_disk, keep_on_disk
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.prepare import encode_picture
from liveavatar_runtime.sampling.run import Executor, SamplingRequest
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE, load_wan_vae
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
SHORT = replace(PLAN, num_clip=2, infer_frames=12)
OFFSETS = range(4, ALIGNMENT, 4)
ODD_WIDTH = replace(CONFIG, dim=24)
"""A width at which rows start at odd places."""


def at(tensor: Tensor, offset: int) -> Tensor:
    """A copy that starts so many bytes after a multiple of 64."""
    room = torch.empty(tensor.nbytes + 2 * ALIGNMENT, dtype=torch.uint8)
    start = -room.data_ptr() % ALIGNMENT + offset
    return room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def transformer(offset: int) -> CausalWanS2V:
    model = random_model()
    for parameter in model.parameters():
        parameter.data = at(parameter.data, offset)
    assert not any(map(is_aligned, model.parameters()))
    return model


def local(model: CausalWanS2V) -> Executor:
    return LocalExecutor(model, CPU, torch.float32)


def batched(model: CausalWanS2V) -> Executor:
    return LocalExecutor(model, CPU, torch.float32, batched=True)


def layer_pipeline(model: CausalWanS2V, stages: int = 3) -> Executor:
    layers = split_evenly(model.config.num_layers, stages)
    return LayerPipelineExecutor(spread_layers(model, layers, [CPU] * stages), layers, torch.float32)


def timestep_pipeline(model: CausalWanS2V) -> Executor:
    return TimestepPipelineExecutor(replicate(model, [CPU] * 2), torch.float32)


def latents(executor: Executor) -> Tensor:
    return torch.cat(
        [block.latents for block in executor.run(SamplingRequest(random_conditions(plan=SHORT), SHORT))], dim=1
    )


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """From weights that PyTorch allocated."""
    return latents(local(random_model()))


@pytest.mark.parametrize("offset", OFFSETS)
def test_no_place_of_the_weights_changes_a_bit(expected: Tensor, offset: int) -> None:
    model = transformer(offset)
    assert torch.equal(latents(local(model)), expected)
    assert all(map(is_aligned, model.parameters()))


@pytest.mark.parametrize("make", [batched, layer_pipeline, timestep_pipeline])
@pytest.mark.parametrize("offset", [8, 20, 60])
def test_every_executor_gives_the_same_bits(
    expected: Tensor, make: Callable[[CausalWanS2V], Executor], offset: int
) -> None:
    assert torch.equal(latents(make(transformer(offset))), expected)


@pytest.mark.parametrize("actors", [1, 2])
def test_the_voice_enters_products_as_a_stage_would_receive_it(actors: int) -> None:
    features = random_conditions(ODD_WIDTH, SHORT, actors).audio.frames(0, 12)
    tokens = random_model(ODD_WIDTH).embed_audio(features, torch.float32, CPU)
    assert is_aligned(tokens.glob) and is_aligned(tokens.local)


@pytest.mark.parametrize("offset", [8, 24, 56, 60])
def test_mapped_files_give_the_bits_of_allocated_weights(expected: Tensor, tmp_path: Path, offset: int) -> None:
    weights = {name: weight.contiguous() for name, weight in random_model().state_dict().items()}
    save_at(tmp_path / "model.safetensors", weights, offset)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    model = load_transformer(tmp_path / "model.safetensors")
    assert not all(map(is_aligned, model.parameters()))
    assert torch.equal(latents(local(model)), expected)


def test_weights_that_stay_on_the_disk_give_the_same_bits(expected: Tensor) -> None:
    """Each layer's are brought when it is called, by accelerate's hook."""
    model = random_model()
    weights = {name: at(weight, 20) for name, weight in model.state_dict().items()}
    keep_on_disk(model.to("meta"), weights, lambda name: weights[name].dtype)
    assert is_on_disk(model)
    hook: Any = model.blocks.get_submodule("0.ffn.0")._hf_hook
    assert is_aligned(hook.weights_map["weight"])
    assert torch.equal(latents(local(model)), expected)


@pytest.mark.parametrize("offset", [4, 24, 56])
def test_picture_and_frames_of_the_vae(offset: int) -> None:
    torch.manual_seed(6)
    vae = WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    picture, blocks = torch.rand(64, 64, 3, generator=generator), torch.randn(16, 3, 8, 8, generator=generator)

    def results(vae: WanVAE, picture: Tensor) -> list[Tensor]:
        reference, motion = encode_picture(PlacedVAE(vae, CPU, torch.float32), picture, SHORT, 19)
        decoder = OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), motion[:, -7:], "hold")
        return [reference, motion, decoder.decode(blocks)]

    other = load_wan_vae({name: at(weight, offset) for name, weight in vae.state_dict().items()})
    for one, same in zip(results(other, at(picture, offset)), results(vae, picture), strict=True):
        assert torch.equal(one, same)
    assert all(map(is_aligned, other.parameters()))


@pytest.mark.parametrize("offset", [4, 24, 56])
def test_hidden_states_of_the_voice(offset: int) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
    }
    sizes |= {"conv_dim": (24,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = Wav2Vec2Config(**sizes)
    weights = randomised(Wav2Vec2Model(config)).state_dict()
    sound = 0.3 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(5))
    expected = load_wav2vec2(weights, config.to_dict()).encode_prepared(sound, 16000)
    moved = load_wav2vec2({name: at(weight, offset) for name, weight in weights.items()}, config.to_dict())
    assert torch.equal(moved.encode_prepared(at(sound, offset), 16000), expected)
    assert all(map(is_aligned, moved.parameters()))


def test_only_what_is_not_aligned_is_copied() -> None:
    tensor = torch.randn(5, 7)
    assert aligned(tensor) is tensor
    assert aligned(torch.empty(0)).numel() == 0
    elsewhere = torch.empty(3, device="meta")[1:]
    assert aligned(elsewhere) is elsewhere
    for odd in (at(tensor, 20), tensor[:, 1:], tensor.T):
        copy = aligned(odd)
        assert is_aligned(copy) and torch.equal(copy, odd) and copy.data_ptr() != odd.data_ptr()


def test_weights_are_copied_once_and_stay_the_same_objects() -> None:
    one, two, three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    module = nn.Sequential(one, two, three)
    shared = one.weight.data = two.weight.data = at(one.weight.data, 20)
    two.register_buffer("scale", at(torch.ones(3), 4))
    parameters = list(module.parameters())
    places = {id(p): p.data_ptr() for p in parameters}
    align_weights(module, torch.device("cuda"))
    assert {id(p): p.data_ptr() for p in parameters} == places
    align_weights(module, CPU)
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert all(map(is_aligned, (*module.parameters(), *module.buffers())))
    assert one.weight.data_ptr() == two.weight.data_ptr() and torch.equal(one.weight, shared)
    assert three.weight.data_ptr() == places[id(three.weight)]
