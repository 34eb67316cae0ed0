"""Broken parts of a model folder: only errors of ours, which name the file. See tests/runtime/test_broken_files.py."""

import importlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from pack_modules import folder_of
from test_broken_files import check, mutations, search

from benchmarks.broken_files.loaders import bundle_loaders
from benchmarks.broken_files.trial import REFUSED, Trial

NAMES = ("VAE", "audio encoder", "audio encoder's config", "text encoder", "text encoder's config", "tokenizer")


@pytest.fixture(scope="module")
def trials(pack, tmp_path_factory) -> dict[str, Trial]:
    clip, parts = (
        importlib.import_module(f"{pack.__name__}.{folder_of(name)}.{name}") for name in ("bundle_clip", "bundle_parts")
    )
    loaders = bundle_loaders(clip, parts)
    return {loader.name: Trial(loader, tmp_path_factory.mktemp("broken")) for loader in loaders}


@pytest.mark.parametrize("name", NAMES)
def test_only_our_errors_come_out(trials, name):
    trial = trials[name]

    @search
    @given(mutations(trial.loader.kinds))
    def broken(steps: list) -> None:
        check(trial.mutated(steps))

    broken()


def test_there_is_a_trial_for_each_part(trials):
    assert tuple(trials) == NAMES


CONFIGS = {
    "100,000 layers": ("text encoder's config", {"num_layers": 100_000}, "num_layers is 100000, the weights have 2"),
    "a width of a text": ("text encoder's config", {"d_model": "64"}, "d_model is '64', the weights have 64"),
    "another model": ("text encoder's config", {"model_type": "t5"}, "model_type is 't5'"),
    "no activation": ("text encoder's config", {"dense_act_fn": ["relu"]}, "dense_act_fn is"),
    "no voice's heads": ("audio encoder's config", {"num_attention_heads": 0}, "0 attention heads do not divide"),
    "heads of a text": ("audio encoder's config", {"num_attention_heads": "4"}, "'4' attention heads"),
    "strides of a text": ("audio encoder's config", {"conv_stride": "5222222"}, "conv_stride .* is '5222222'"),
    "endless strides": ("audio encoder's config", {"conv_stride": [2**62] * 7}, "strides"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_are_compared_with_the_weights_before_anything_is_built(trials, kind):
    name, values, words = CONFIGS[kind]
    trial = trials[name]
    outcome = trial.with_content(json.dumps({**json.loads(trial.content), **values}).encode())
    assert outcome.kind == REFUSED and re.search(words, outcome.text) and outcome.seconds < 10, outcome


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a tokenizer"])
def test_what_is_no_tokenizer_is_named(trials, content):
    outcome = trials["tokenizer"].with_content(content)
    assert outcome.kind == REFUSED and "spiece.model cannot be read as a tokenizer" in outcome.text, outcome


def test_without_maps_no_part_stays_mapped(pack, trials, monkeypatch):
    """--disable-mmap of ComfyUI reaches the parts of a model folder."""
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "disable_mmap", True)
    held = []
    for name in ("VAE", "audio encoder", "text encoder"):
        trial = trials[name]
        trial.file.unlink()
        trial.file.write_bytes(trial.content)
        held.append(trial.loader.load(trial.folder))
        assert str(trial.file) not in Path("/proc/self/maps").read_text(), name
