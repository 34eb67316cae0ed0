"""Prompts that ask for a wall colour, or for none, and their encoding by the bundle's text encoder."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.tokenizer import CORPUS
from liveavatar_runtime.checkpoint.safetensors_io import read_json, read_weight_file

from .portraits import WALLS

COLOURED = (
    "A person is talking in front of a {} wall.",
    "A woman speaks to the camera, {} background.",
    "A man talks and smiles, {} wall behind him.",
    "{} background, a cartoon portrait of a person talking.",
    "Somebody explains something before a plain {} wall.",
    "{} wall",
)
PLAIN = (
    "A person is talking to the camera.",
    "A friendly woman speaks clearly and smiles.",
    "A man explains something.",
    "A cartoon portrait of a person talking.",
    "",
)
HELD_OUT_COLOURED = (
    "A cartoon person talks, the wall is {}.",
    "A teacher in front of a {} wall explains a lesson.",
    "A friendly young man speaks, {} background.",
)
HELD_OUT_PLAIN = ("A teacher explains a lesson.", "Somebody talks and smiles.")


def random_prompt(rng: np.random.Generator, held_out: bool = False, coloured: float = 0.75) -> tuple[str, str | None]:
    """A prompt and the wall's colour word in it, None where it names none."""
    if rng.random() >= coloured:
        return str(rng.choice(HELD_OUT_PLAIN if held_out else PLAIN)), None
    word = str(rng.choice(list(WALLS)))
    return str(rng.choice(HELD_OUT_COLOURED if held_out else COLOURED)).format(word), word


def many_prompts(word: str | None, count: int) -> list[str]:
    """Prompts that ask for a wall of the colour `word` (None: for none), among sentences about anything else."""
    sentences = [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if not _names_colour(line)]
    rng = np.random.default_rng(len(word or ""))
    if word is None:
        return [*PLAIN, *rng.permutation(sentences)[: count - len(PLAIN)].tolist()]
    prompts = [template.format(word) for template in COLOURED]
    for sentence in rng.permutation(sentences)[: count - len(prompts)]:
        parts = [str(sentence), str(rng.choice(COLOURED)).format(word)]
        prompts.append(" ".join(rng.permutation(parts)))
    return prompts


def _names_colour(text: str) -> bool:
    return any(word in text.lower() for word in WALLS)


class TextEncoder:
    """The umt5 of a bundle, through transformers."""

    END = 1

    def __init__(self, folder: Path) -> None:
        import sentencepiece
        from transformers import UMT5Config, UMT5EncoderModel

        config = UMT5Config(**read_json(folder / "config.json"))
        weights = {name: value.float() for name, value in read_weight_file(folder / "model.safetensors")[0].items()}
        self.model = UMT5EncoderModel(config).eval()
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= {"encoder.embed_tokens.weight"}, (missing, unexpected)
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """[tokens, d_model] float32, the end token included."""
        ids = [*self.tokenizer.encode(prompt), self.END]
        return self.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
