"""The demo model through ComfyUI's own loaders: transformer, VAE, text encoder, LoRA."""

import importlib
import logging
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.vae import load_wan_vae

ROOT = Path(__file__).parents[2]
BUNDLE = find_bundle(ROOT / "demo" / "liveavatar-demo")
MODEL_FILE = BUNDLE.folder / "diffusion_pytorch_model.safetensors"


def load_model(dtype: torch.dtype | None = None):
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(MODEL_FILE), {} if dtype is None else {"dtype": dtype})


def test_core_loads_the_transformer_at_the_demos_sizes(comfy, caplog):
    from comfy.ldm.wan.model import WanModel_S2V

    with caplog.at_level(logging.WARNING):
        model = load_model().model.diffusion_model
    assert "left over keys" not in caplog.text
    assert "missing" not in caplog.text
    assert isinstance(model, WanModel_S2V)
    assert (model.dim, model.num_heads, len(model.blocks)) == (DEMO.dim, DEMO.num_heads, DEMO.num_layers)
    assert (model.text_len, model.freq_dim, model.eps) == (DEMO.text_len, DEMO.freq_dim, DEMO.eps)
    assert tuple(model.audio_injector.injected_block_id) == DEMO.audio_inject_layers
    stored = load_file(MODEL_FILE)
    loaded = model.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name].to(tensor.dtype), tensor) for name, tensor in stored.items())


def test_core_loads_the_vae_with_the_same_numbers(comfy):
    import comfy.sd
    import comfy.utils

    assert BUNDLE.vae
    torch.set_num_threads(1)
    theirs = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BUNDLE.vae)))
    theirs.throw_exception_if_invalid()
    ours = load_wan_vae(open_checkpoint(BUNDLE.vae).tensors, dtype=torch.float32)
    picture = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        raw = theirs.encode(picture)
        assert tuple(raw.shape) == (1, 16, 1, 8, 6)
        mine = ours.encode(picture.permute(3, 0, 1, 2)[None] * 2 - 1)
        torch.testing.assert_close(mine, raw.float(), atol=1e-5, rtol=0)
        decoded = theirs.decode(raw)
        again = (ours.decode(raw.float()).clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(again, decoded.float(), atol=1e-5, rtol=0)
    assert decoded.std() > 0.02


@pytest.fixture(scope="module")
def bundle_clip(comfy):
    """The node pack's module, imported as ComfyUI does it: inside a package that is not on the path."""
    pack = types.ModuleType("live_avatar_pack")
    pack.__path__ = [str(ROOT)]
    nodes = types.ModuleType("live_avatar_pack.nodes")
    nodes.__path__ = [str(ROOT / "nodes")]
    sys.modules |= {pack.__name__: pack, nodes.__name__: nodes}
    return importlib.import_module("live_avatar_pack.comfy_bridge.bundle_clip")


@pytest.fixture(scope="module")
def clip(bundle_clip):
    torch.set_num_threads(1)
    return bundle_clip.load_bundle_clip(BUNDLE)


def encode(clip, text: str) -> torch.Tensor:
    [[cond, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    assert extra == {"pooled_output": None}
    return cond


def test_conditioning_has_wans_form(clip):
    import comfy.sd

    assert isinstance(clip, comfy.sd.CLIP)
    cond = encode(clip, "A woman is talking to the camera.")
    assert tuple(cond.shape) == (1, 512, DEMO.text_dim)
    assert cond.dtype == torch.float32
    tokens = [token for token, _ in clip.tokenize("A woman is talking to the camera.")["umt5xxl"][0]]
    used = tokens.index(1) + 1
    assert tokens[used:] == [0] * (512 - used)
    assert (cond[0, :used].abs().sum(-1) > 0).all()
    assert not cond[0, used:].any()


def test_prompts_differ_and_repeat_exactly(clip):
    texts = ["A woman is talking.", "A man is singing.", "一个人正在说话。", ""]
    conds = [encode(clip, text) for text in texts]
    for n, cond in enumerate(conds):
        assert torch.equal(encode(clip, texts[n]), cond)
        assert all((cond - other).abs().max() > 0.1 for other in conds[:n])


def test_weights_in_brackets_work(clip):
    plain, strong = encode(clip, "A woman smiles"), encode(clip, "A woman (smiles:1.5)")
    difference = (plain - strong).abs().amax(-1)[0]
    assert difference.max() > 0.01


def test_of_long_prompts_the_beginning_is_encoded_and_their_length_said(clip):
    """As the original cuts texts: the last of the 512 tokens is the end mark."""
    [[cond, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize("talking " * 700))
    ((tokens,),) = clip.tokenize("talking " * 700).values()
    assert extra == {"pooled_output": None, "liveavatar_prompt_tokens": len(tokens)} and len(tokens) > 700
    assert cond.shape[1] == 512 and cond[0].any(dim=-1).all()
    cut = {"umt5xxl": [[*tokens[:511], (1, 1.0)]]}
    assert torch.equal(clip.encode_from_tokens_scheduled(cut)[0][0], cond)


def test_a_hundred_thousand_characters_need_no_more_memory_than_a_page(clip):
    [[cond, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize("A person talks. " * 6250))
    assert cond.shape[1] == 512 and extra["liveavatar_prompt_tokens"] > 20_000


def test_text_encoder_is_hugging_faces_umt5(clip):
    """Hugging Face's umt5 with the same weights: the names and the config mean the same everywhere."""
    from transformers import UMT5Config, UMT5EncoderModel

    from demo.architecture import TEXT_ENCODER

    sizes = {
        key: value for key, value in TEXT_ENCODER.items() if key not in ("dense_act_fn", "is_gated_act", "model_type")
    }
    model = UMT5EncoderModel(UMT5Config(**sizes, feed_forward_proj="gated-gelu", relative_attention_max_distance=128))
    assert BUNDLE.text_encoder
    weights = {name: tensor.float() for name, tensor in load_file(BUNDLE.text_encoder).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"}
    assert not unexpected
    model.encoder.embed_tokens.weight = model.shared.weight
    tokens = [token for token, _ in clip.tokenize("A woman is talking to the camera.")["umt5xxl"][0]]
    used = tokens.index(1) + 1
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([tokens[:used]])).last_hidden_state
    torch.testing.assert_close(encode(clip, "A woman is talking to the camera.")[:, :used], expected, atol=1e-5, rtol=0)


def test_official_text_archive_gives_no_clip_yet(bundle_clip, tmp_path):
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(BUNDLE.folder / name, tmp_path)
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth").touch()
    assert bundle_clip.load_bundle_clip(find_bundle(tmp_path)) is None


def test_text_encoder_that_does_not_fit_its_config(bundle_clip, tmp_path):
    folder = shutil.copytree(BUNDLE.folder, tmp_path / "model")
    weights = load_file(folder / "umt5" / "model.safetensors")
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, folder / "umt5" / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit .*1 of \d+ weights are missing.*final_layer_norm"):
        bundle_clip.load_bundle_clip(find_bundle(folder))


def test_hugging_face_loads_the_audio_encoder(comfy):
    from transformers import Wav2Vec2Model

    assert BUNDLE.wav2vec2
    loaded = Wav2Vec2Model.from_pretrained(BUNDLE.wav2vec2, output_loading_info=True)
    assert isinstance(loaded, tuple)
    problems = {key: names for key, names in loaded[1].items() if names}
    assert not problems
