"""Trains the demo's sentencepiece tokenizer on a page of English and Chinese prompts.

Byte pair encoding has no random numbers and no floating-point statistics in it, so the same text gives the same file.
Bytes stand in for every character the page does not have: any language can be written, none is unknown.
"""

import io
from pathlib import Path

CORPUS = Path(__file__).parent / "tokenizer_corpus.txt"


def train_tokenizer(pieces: int) -> bytes:
    """A `spiece.model` with `pieces` entries: pad 0, end 1, unknown 2 as in umt5, then 256 bytes, then text."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.read_text(encoding="utf-8").splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        minloglevel=2,
    )
    return model.getvalue()
