"""Whatever is wrong in a file that others wrote: an error of ours that names it, at once and in little memory.

Real small files are broken by a search over mutations (`benchmarks.broken_files`); `python -m benchmarks.broken_files`
does that thousands of times, with the parts that need ComfyUI.
"""

import json
import re
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from benchmarks.broken_files.loaders import ADAPTER, INDEX, RUNTIME, SINGLE, Loader
from benchmarks.broken_files.mutations import DEEP, Mutation
from benchmarks.broken_files.trial import LOADED, REFUSED, Outcome, Trial

LOADERS = {loader.name: loader for loader in RUNTIME}
TRIES = 40
SECONDS = 10.0
"""Of processor time; ten times what is promised, as machines differ."""
MEMORY = 200e6
"""Bytes beside what the process held before."""


SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
search = settings(max_examples=TRIES, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW)


def mutations(kinds: tuple[Mutation, ...]) -> st.SearchStrategy[list[tuple[Mutation, int]]]:
    """Mutations on top of each other, each with a seed; the search leaves out those that a failure does not need."""
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 2**32)), min_size=1, max_size=3)


def check(outcome: Outcome) -> None:
    assert outcome.kind in (LOADED, REFUSED), outcome
    assert outcome.text.isprintable() or not outcome.text, outcome
    assert outcome.seconds < SECONDS and outcome.memory < MEMORY, outcome


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> dict[str, Trial]:
    return {name: Trial(loader, tmp_path_factory.mktemp("broken")) for name, loader in LOADERS.items()}


@pytest.mark.parametrize("name", LOADERS)
def test_only_our_errors_come_out(trials, name):
    trial = trials[name]

    @search
    @given(mutations(trial.loader.kinds))
    def broken(steps: list) -> None:
        check(trial.mutated(steps))

    broken()


def header_of(content: bytes) -> dict:
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def with_header(content: bytes, text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]


def changed(name: str, **values: object):
    """A tensor's entry in the header with other values."""

    def change(content: bytes) -> bytes:
        header = header_of(content)
        header[name] |= values
        return with_header(content, json.dumps(header).encode())

    return change


def config(**values: object):
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


def noted(key: str, text: str):
    """A text in the header's metadata."""

    def change(content: bytes) -> bytes:
        header = header_of(content)
        return save(load(content), {**(header.get("__metadata__") or {}), key: text})

    return change


def renamed(old: str, new: str):
    return lambda content: content.replace(old.encode(), new.encode(), 1)


def renamed_tensors(old: str, new: str):
    def change(content: bytes) -> bytes:
        return with_header(content, json.dumps(header_of(content)).replace(old, new).encode())

    return change


def gguf_array(count: int, item: int):
    """A GGUF file whose first entry is an array of so many values."""
    key = b"general.tags"

    def change(content: bytes) -> bytes:
        start = content[:4] + struct.pack("<IQQ", 3, 0, 1)
        return start + struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, item, count) + content[24:]

    return change


def table(count: int) -> bytes:
    """A header of so many tensors without values."""
    entries = (f'"{n}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}}' for n in range(count))
    return f"{{{','.join(entries)}}}".encode()


WEIGHT = "blocks.0.self_attn.q.weight"
CONFIG, MODEL, GGUF, LORA = "config.json", "transformer", "GGUF", "LoRA"
# What to read in the message, and how the file is broken.
HOSTILE = {
    "100,000 layers": (CONFIG, "num_layers is 100000 in the config and 4 in the weights", config(num_layers=10**5)),
    "no heads": (CONFIG, "num_heads 0|num_heads is 0", config(num_heads=0)),
    "heads of a text": (CONFIG, "num_heads is '4'", config(num_heads="4")),
    "heads that are true": (CONFIG, "num_heads is True", config(num_heads=True)),
    "epsilon that is no number": (CONFIG, "NaN is no number", config(eps=float("nan"))),
    "negative epsilon": (CONFIG, "eps is -1", config(eps=-1)),
    "endless epsilon": (CONFIG, "eps is inf", lambda c: c.replace(b"1e-06", b"1e999")),
    "layers twice": (CONFIG, "audio_inject_layers is", config(audio_inject_layers=[0] * 10)),
    "years of motion": (CONFIG, "motion_frames is", config(motion_frames=[10**12, 10**11])),
    "a size of the video": (CONFIG, "video_size is", config(video_size=[-64, 10**9])),
    "deep nesting": (CONFIG, "nested too deeply", lambda _: b'{"a":' + b"[" * DEEP),
    "a number of 10,000 digits": (CONFIG, "cannot be read as JSON", lambda _: b'{"dim":' + b"9" * 10_000 + b"}"),
    "a key twice": (CONFIG, "'dim' is there twice", lambda c: c[:-2] + b',"dim":1}'),
    "an empty config": (CONFIG, "0 bytes", lambda _: b""),
    "layer 99999999": (MODEL, "missing", renamed_tensors('"blocks.3.', '"blocks.99999999.')),
    "offsets of text": (MODEL, "no place in a file", changed(WEIGHT, data_offsets=["0", "8"])),
    "offsets that overlap": (MODEL, "overlaps", changed(WEIGHT, data_offsets=[0, 32768])),
    "offsets out of the file": (MODEL, "does not follow", changed(WEIGHT, data_offsets=[2**40, 2**40 + 32768])),
    "a shape that overflows": (MODEL, "takes .* bytes", changed(WEIGHT, shape=[2**40, 2**40])),
    "a negative shape": (MODEL, "no sizes", changed(WEIGHT, shape=[-128, -128])),
    "an unknown type": (MODEL, "is of the type 'Q4'", changed(WEIGHT, dtype="Q4")),
    "no shape": (MODEL, "has shape None", changed(WEIGHT, shape=None)),
    "a table of 250,000 tensors": (MODEL, "too large to describe", lambda c: with_header(c, table(250_000))),
    "nothing but brackets": (MODEL, "too large", lambda c: with_header(c, b'{"a":[' + b"[]," * 5_000_000 + b"[]]}")),
    "a deep header": (MODEL, "nested too deeply", lambda c: with_header(c, b'{"a":' + b"[" * DEEP)),
    "metadata of numbers": (MODEL, "no table of texts", lambda c: with_header(c, b'{"__metadata__":{"a":1}}')),
    "half a character in a name": (MODEL, "cannot be read as weights", renamed_tensors('"blocks.3.', '"\\ud800.3.')),
    "an index that leaves": ("index", "lacks", renamed("diffusion_pytorch_model-00001", "../../pytorch_model-00001")),
    "an index with numbers": ("index", "no weight_map", lambda _: b'{"weight_map": {"a": 1}}'),
    "an index of a NUL": ("index", r"lacks .*\\x00", renamed("diffusion_pytorch_model-00001", "\\u0000")),
    "an array of 2^31 numbers": (GGUF, "the file ends", gguf_array(2**31, 4)),
    "an array of 2^31 texts": (GGUF, "2,147,483,648", gguf_array(2**31, 8)),
    "an array of 2^63 texts": (GGUF, "array of", gguf_array(2**63, 8)),
    "2^60 tensors": (GGUF, "bytes can describe", lambda c: c[:8] + struct.pack("<Q", 2**60) + c[16:]),
    "2^60 entries": (GGUF, "bytes can describe", lambda c: c[:16] + struct.pack("<Q", 2**60) + c[24:]),
    "a big-endian GGUF": (GGUF, "of version 50331648", lambda c: c[:4] + struct.pack(">I", 3) + c[8:]),
    "metadata that is no JSON": (LORA, "cannot be read as a LoRA", noted("lora_adapter_metadata", "{")),
    "deep metadata": (LORA, "nested too deeply", noted("lora_adapter_metadata", "[" * DEEP)),
    "a pattern that never ends": (
        LORA,
        "more than the names of layers need",
        noted("lora_adapter_metadata", json.dumps({"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}})),
    ),
    "alpha that is no number": (LORA, "which is no number", noted("lora_adapter_metadata", '{"lora_alpha": 1e999}')),
    "an endless alpha": (LORA, "is no number", noted("lora_adapter_metadata", '{"lora_alpha": Infinity}')),
    "notes that are a list": ("quantised", "cannot be read as weights", noted("_quantization_metadata", "[]")),
    "notes without a format": (
        "quantised",
        "names no format",
        noted("_quantization_metadata", '{"layers": {"blocks.0": 3}}'),
    ),
    "an endless rate": ("calibration", "no positive number", lambda c: c.replace(b"500000000000000.0", b"1e999")),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(trials, kind):
    name, words, change = HOSTILE[kind]
    broken = change(trials[name].content)
    assert broken != trials[name].content
    outcome = trials[name].with_content(broken)
    check(outcome)
    assert outcome.kind == REFUSED and re.search(words, outcome.text), outcome


@pytest.mark.parametrize(("name", "file"), [("LoRA's config", ADAPTER), ("index", INDEX), ("quantised", SINGLE)])
def test_files_that_cannot_be_opened(trials, name, file, tmp_path):
    """A folder, nothing and a dangling link in place of a file."""
    loader: Loader = LOADERS[name]
    loader.make(tmp_path)
    path = tmp_path / file
    path.unlink()
    for place in (lambda: None, path.mkdir, lambda: (path.rmdir(), path.symlink_to(tmp_path / "none"))):
        place()
        with pytest.raises(
            ValueError, match="does not exist|is a link to|is a folder|not a Live Avatar model|holds no weights"
        ):
            loader.load(tmp_path)
