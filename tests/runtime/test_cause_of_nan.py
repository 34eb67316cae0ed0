"""Which side made values that are not numbers: sound, audio encoder, VAE, its format; weights, LoRAs, format."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lora_merging import merge_lora
from safetensors.torch import load_file
from tiny_avatar import CONFIG, random_conditions, random_model
from torch import Tensor, nn

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.checkpoint.safetensors_io import read_json
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.cause_of_nan import UsedWeight, cause_in_model, cause_in_workers
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, check_masks, check_voice, encode_picture, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream, StreamHooks
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE

CPU = torch.device("cpu")
PLAN = ClipPlan(num_clip=1, infer_frames=12, width=64, height=64, keep_aspect=False)
WEIGHT = "blocks.1.ffn.0.weight"
WAV2VEC2 = Path(__file__).parents[2] / "demo" / "liveavatar-demo" / "wav2vec2"
FIRST = "encoder.conv1.weight"
NAN, INF = float("nan"), float("inf")


def voice(features: Tensor | None = None, waveform: Tensor | None = None) -> AvatarAudio:
    features = torch.randn(1, CONFIG.audio_layers, 50, CONFIG.audio_dim) if features is None else features
    return AvatarAudio(features, torch.randn(1, 16000) if waveform is None else waveform, 16000)


@pytest.mark.parametrize("place", [0, 777, -1])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_sound_that_is_not_numbers_is_told_before_anything_is_encoded(place, value) -> None:
    waveform = torch.randn(2, 16000)
    waveform.view(-1)[place] = value
    with pytest.raises(InputError, match="the voice has samples that are not numbers"):
        check_voice(voice(waveform=waveform))
    check_voice(voice())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 4321, -1])
def test_a_voice_that_was_encoded_wrongly_blames_the_encoder(dtype, place) -> None:
    features = torch.randn(1, CONFIG.audio_layers, 50, CONFIG.audio_dim).to(dtype)
    features.view(-1)[place] = NAN
    with pytest.raises(InputError, match=r"not numbers .* 1 of 10,000, though its sound is: the audio encoder's"):
        check_voice(voice(features))


def test_a_broken_audio_encoder_is_blamed() -> None:
    file = next(WAV2VEC2.glob("*.safetensors"))
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.0.attention.k_proj.weight"))
    weights[name] = weights[name].index_fill(0, torch.tensor(1), NAN)
    encoder = load_wav2vec2(weights, read_json(WAV2VEC2 / "config.json"))
    waveform = torch.randn(1, 16000)
    with pytest.raises(InputError, match="the audio encoder's weights hold such values"):
        check_voice(AvatarAudio(encoder.encode_prepared(waveform, 16000)[None], waveform, 16000))


def test_masks_that_are_not_numbers_are_told() -> None:
    with pytest.raises(InputError, match="the actors' masks have values"):
        check_masks(torch.full((2, 3, 4, 4), INF))


def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)


def test_a_broken_vae_is_blamed_by_the_name_of_its_weight() -> None:
    broken = vae()
    broken.get_parameter(FIRST).view(-1)[5] = NAN
    with pytest.raises(
        InputError, match=r"not numbers .*its weight encoder\.conv1\.weight holds such values\. Get the"
    ):
        encode_picture(PlacedVAE(broken, CPU, torch.float32), torch.rand(64, 64, 3), PLAN, 19)


def test_a_format_that_is_too_small_for_the_vae_is_blamed() -> None:
    """The same weights encode to numbers in float32."""
    loud = vae()
    loud.get_parameter(FIRST).mul_(3e5)
    encode_picture(PlacedVAE(loud, CPU, torch.float32), torch.ones(64, 64, 3), PLAN, 19)
    with pytest.raises(InputError, match=r"though its weights and the picture are: float16 is too small .*--fp32-vae"):
        encode_picture(PlacedVAE(loud.half(), CPU, torch.float16), torch.ones(64, 64, 3), PLAN, 19)


def test_everything_is_looked_at_before_the_picture_is_encoded() -> None:
    broken = vae()
    broken.get_parameter(FIRST).fill_(NAN)
    text, plan = torch.randn(5, CONFIG.text_dim), replace(PLAN, num_clip=1)
    arguments, picture, place = (plan, CONFIG), torch.rand(64, 64, 3), PlacedVAE(broken, CPU, torch.float32)
    with pytest.raises(InputError, match="the voice has samples"):
        prepare(*arguments, Inputs(picture, text, voice(waveform=torch.full((1, 16000), NAN))), place)
    with pytest.raises(InputError, match="the actors' masks"):
        prepare(*arguments, Inputs(picture, text, voice(), torch.full((1, 3, 4, 4), NAN)), place)


def told(model: nn.Module, weights: Callable[[], Iterator[UsedWeight]], dtype: torch.dtype, finite_file: bool) -> str:
    """What the error of a stream says whose model gives values that are not numbers."""
    executor = LocalExecutor(model, CPU, dtype)  # type: ignore[arg-type]
    conditions = random_conditions(plan=PLAN)
    stream = LatentStream(
        PLAN,
        conditions.motion,
        lambda plan, start, keep: executor.run(SamplingRequest(conditions, plan, start, None, keep)),
        hooks=StreamHooks(cause_of_nan=lambda: cause_in_model(weights(), dtype, finite_file)),
    )
    with pytest.raises(MachineError, match="not numbers .* in clip 1; nothing of this clip is kept") as error:
        next(iter(stream))
    assert stream.finished_clips == 0
    return str(error.value)


def held(model: nn.Module) -> Iterator[UsedWeight]:
    return (UsedWeight(name, weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_broken_weight_is_named(value) -> None:
    model = random_model()
    model.get_parameter(WEIGHT).view(-1)[7:9] = value
    text = told(model, lambda: held(model), torch.float32, False)
    assert f"The model's weight {WEIGHT} holds such values, 2 of its 2,048 values: get its file again" in text


def test_a_weight_that_a_format_has_no_room_for_blames_the_format() -> None:
    model = random_model()
    model.get_parameter(WEIGHT)[0, 0] = 1e5
    half = model.half()
    text = told(half, lambda: held(half), torch.float16, True)
    assert f"too small: 1 of its 2,048 values of the weight {WEIGHT} became infinite in float16. Set precision" in text


@pytest.mark.parametrize(
    ("strength", "dtype", "reads"),
    [
        (3e38, torch.float32, rf"A LoRA makes the weight {WEIGHT} so, which is finite without it.*lower its strength"),
        (1e5, torch.float16, rf"A LoRA makes values of the weight {WEIGHT} larger than float16 holds \(65504\)"),
        (1e36, torch.float32, rf"A LoRA is too strong: it makes {WEIGHT} [\d,]+ times as large"),
    ],
)
def test_a_lora_that_is_too_strong_is_blamed(strength, dtype, reads) -> None:
    before = {name: weight.clone() for name, weight in random_model().state_dict().items()}
    rows, columns = before[WEIGHT].shape
    module = WEIGHT.removesuffix(".weight")
    lora = {f"{module}.lora_A.weight": torch.ones(2, columns), f"{module}.lora_B.weight": torch.ones(rows, 2)}
    merged = merge_lora(before, lora, strength).tensors
    model = random_model()
    model.load_state_dict({**before, **merged})
    model = model.to(dtype)

    def weights() -> Iterator[UsedWeight]:
        return (UsedWeight(name, weight, merged.get(name)) for name, weight in before.items())

    text = told(model, weights, dtype, True)
    assert re.search(reads, text), text


def test_hidden_states_that_a_format_has_no_room_for_blame_the_format() -> None:
    model = random_model()
    model.get_parameter(WEIGHT).mul_(3e4)
    half = model.half()
    assert "also with LoRAs. Hidden states grow beyond what fp16 holds" in told(
        half, lambda: held(half), torch.float16, True
    )


def test_what_is_left_is_said() -> None:
    model = random_model()
    weights = list(held(model))
    assert "only kv_dtype fp8 and attention sage is left" in cause_in_model(
        weights, torch.bfloat16, True, ["kv_dtype fp8", "attention sage"]
    )
    assert "Try precision fp32" in cause_in_model(weights, torch.bfloat16, True)
    assert "lower the strengths. Hidden states grow beyond what fp16" in cause_in_workers(torch.float16)
