"""What is read of a CONDITIONING that ComfyUI's nodes made."""

import importlib

import pytest
import torch

LIMIT = 512


@pytest.fixture(scope="module")
def read_prompt(pack):
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.prompt_input").read_prompt


def encoded(tokens: int, seed: int = 0, rows: int = LIMIT) -> torch.Tensor:
    """[1, rows, 8], zeros after the tokens."""
    text = torch.randn(1, max(rows, tokens), 8, generator=torch.Generator().manual_seed(seed))
    text[:, tokens:] = 0
    return text


def test_a_plain_prompt_is_read_as_it_is(comfy, read_prompt):
    text = encoded(20)
    prompt = read_prompt([[text, {"pooled_output": None}]], LIMIT)
    assert torch.equal(prompt.text, text[0]) and prompt.warnings == ()


def test_joined_texts_both_count(comfy, read_prompt):
    from nodes import ConditioningConcat  # pyright: ignore[reportAttributeAccessIssue]

    first, second = encoded(20), encoded(30, seed=1)
    (joined,) = ConditioningConcat().concat([[first, {}]], [[second, {}]])
    prompt = read_prompt(joined, LIMIT)
    assert torch.equal(prompt.text, torch.cat([first[0, :20], second[0, :30]])) and prompt.warnings == ()


def test_joined_texts_that_are_too_long(comfy, read_prompt):
    from nodes import ConditioningConcat  # pyright: ignore[reportAttributeAccessIssue]

    first, second = encoded(500), encoded(30, seed=1)
    (joined,) = ConditioningConcat().concat([[first, {}]], [[second, {}]])
    prompt = read_prompt(joined, LIMIT)
    assert torch.equal(prompt.text, torch.cat([first[0, :500], second[0, :12]]))
    assert prompt.warnings[0].startswith("The prompt has 530 tokens and the model reads 512")


def test_of_a_long_text_no_more_is_kept_than_is_read(comfy, read_prompt):
    text = encoded(900)
    prompt = read_prompt([[text, {}]], LIMIT)
    assert torch.equal(prompt.text, text[0, :LIMIT])
    assert prompt.text.untyped_storage().nbytes() == prompt.text.numel() * 4


def test_every_setting_that_is_not_read_is_named(comfy, read_prompt):
    settings = {"a": 1, "b": torch.zeros(2), "hooks": object(), "start_percent": 0.5, "none": None, "strength": 1.0}
    (said,) = read_prompt([[encoded(20), settings]], LIMIT).warnings
    assert said.startswith(
        "Without effect on this prompt: a, b, the hooks (LoRAs or weights that change while sampling) and the timestep "
        "range 0.5 to 1.0 (every step reads the prompt)."
    )
