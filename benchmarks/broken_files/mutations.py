"""Ways in which a file goes wrong, by accident or on purpose. Each takes a source of choices."""

import io
import json
import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch

Mutation = Callable[[bytes, Random], bytes]

DEEP = 100_000
HOSTILE_NUMBERS = (0, 1, -1, 2, 3, 7, 100_000, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, *HOSTILE_NUMBERS, 0.5, 1e-300, 1e300, -0.0, math.nan, math.inf, -math.inf,
    "", "x", "7", "../../x", "C:\\x", "/dev/zero", "a\0b", "\ud800", "\u202e", "\x1b[2J", "é" * 1000,
    [], [0], [1, 2], [-1, -1], ["a"], [[]], [1] * 1000, {}, {"a": 1}, {"a": {"b": []}},
    "(a+)+$", "(", "[", "float8_e4m3fn", "BF16", "F64", "C64",
)  # fmt: skip
NUMBER_FORMATS = ("<B", "<H", "<I", "<Q", "<q")


def steps(kinds: tuple[Mutation, ...], random: Random) -> list[tuple[Mutation, int]]:
    """One mutation, or a few on top of each other, each with a seed of its own."""
    return [(random.choice(kinds), random.randrange(2**32)) for _ in range(random.choice((1, 1, 1, 2, 4)))]


def mutated(content: bytes, steps: Sequence[tuple[Mutation, int]]) -> bytes:
    for mutate, seed in steps:
        content = mutate(content, Random(seed))
    return content


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(changed), random.choice((1, 2, 16)))):
        changed[_place(changed, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def drop(content: bytes, random: Random) -> bytes:
    start = _place(content, random)
    return content[:start] + content[start + random.choice((1, 4, 8, 64)) :]


def repeat(content: bytes, random: Random) -> bytes:
    start = _place(content, random)
    return content[:start] + content[start : start + random.choice((1, 8, 64))] + content[start:]


def zero(content: bytes, random: Random) -> bytes:
    start, count = _place(content, random), random.choice((1, 8, 512))
    return content[:start] + bytes(len(content[start : start + count])) + content[start + count :]


def append(content: bytes, random: Random) -> bytes:
    return content + bytes(random.choice((1, 7, 4096)))


def number(content: bytes, random: Random) -> bytes:
    """A hostile number in place of whatever is there."""
    start, layout = _place(content, random), random.choice(NUMBER_FORMATS)
    size = struct.calcsize(layout)
    value = random.choice(HOSTILE_NUMBERS) % 2 ** (8 * size - (layout == "<q"))
    return content[:start] + struct.pack(layout, value) + content[start + size :]


def empty(content: bytes, random: Random) -> bytes:
    return random.choice((b"", b"\0", b"{", b"{}", b"[]", b"null", b"\xff" * 64, b"<html>"))


BYTES: tuple[Mutation, ...] = (flip, cut, drop, repeat, zero, append, number, empty)


def _place(content: bytes | bytearray, random: Random) -> int:
    """More often near the beginning, where formats say what follows."""
    if not content:
        return 0
    end = min(len(content), random.choice((16, 256, 4096, len(content))))
    return random.randrange(end)


def json_text(content: bytes, random: Random) -> bytes:
    """A JSON text with values, keys or its nesting changed; what is no JSON any more gets other bytes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return random.choice(BYTES)(content, random)
    for _ in range(random.choice((1, 1, 2, 5))):
        value = _changed(value, random)
    return _dumped(value, random)


def _changed(value: Any, random: Random) -> Any:
    """The value, one place in it changed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(sorted(value))
        how = random.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.2:
            return {**value, str(random.choice(HOSTILE_VALUES)): random.choice(HOSTILE_VALUES)}
        return {**value, key: _changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.6:
        place = random.randrange(len(value))
        return [*value[:place], _changed(value[place], random), *value[place + 1 :]]
    if isinstance(value, str) and value[:1] in "{[" and value and random.random() < 0.7:
        return json_text(value.encode(errors="replace"), random).decode(errors="replace")
    return random.choice(HOSTILE_VALUES)


def _dumped(value: Any, random: Random) -> bytes:
    text = json.dumps(value).encode()
    how = random.random()
    if how < 0.03:
        return text.replace(b":", b":" + b"[" * DEEP, 1)
    if how < 0.06:
        return text.replace(b":", b":" + b"9" * 10_000, 1)
    if how < 0.1 and isinstance(value, dict) and value:
        return b'{"' + next(iter(value)).encode(errors="replace") + b'":1,' + text[1:]
    return text


def header(content: bytes, random: Random) -> bytes:
    """A safetensors file with another header; its length stays right."""
    length = struct.unpack("<Q", content[:8].ljust(8, b"\0"))[0]
    if length > len(content):
        return random.choice(BYTES)(content, random)
    text = json_text(content[8 : 8 + length], random)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def tensors(content: bytes, random: Random) -> bytes:
    """A safetensors file that is whole, with tensors of other shapes, types, names and values."""
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    try:
        stored = load(content)
    except (SafetensorError, ValueError):
        return random.choice(BYTES)(content, random)
    names = sorted(stored)
    for name in random.sample(names, min(len(names), random.choice((1, 1, 2, len(names))))):
        new = random.choice((name, name, name, "", "../x", f"{name}.weight", name.replace("0", "99999999", 1)))
        tensor = stored.pop(name)
        if random.random() < 0.9:
            stored[new] = _other(tensor, random)
    length = struct.unpack("<Q", content[:8])[0]
    texts = json.loads(content[8 : 8 + length]).get("__metadata__")
    return save({name: tensor.contiguous() for name, tensor in stored.items()}, metadata=texts)


def _other(tensor: torch.Tensor, random: Random) -> torch.Tensor:
    kinds = (torch.float64, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn, torch.int8, torch.float16)
    changes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: torch.zeros(()),
        lambda: torch.zeros(0),
        lambda: tensor.new_zeros((0, *tensor.shape)),
        lambda: tensor.reshape(-1),
        lambda: tensor[None],
        lambda: tensor.transpose(0, -1) if tensor.ndim else tensor,
        lambda: tensor[: len(tensor) // 2] if tensor.ndim else tensor,
        lambda: tensor.reshape(1, -1).expand(2, -1),
        lambda: tensor.to(random.choice(kinds)),
        lambda: torch.full_like(tensor.float(), random.choice((math.nan, math.inf, 0.0, 1e38))),
    )
    return random.choice(changes)()


SAFETENSORS: tuple[Mutation, ...] = (header, header, tensors, tensors, *BYTES)
JSON: tuple[Mutation, ...] = (json_text, json_text, json_text, json_text, *BYTES)


def archive(content: bytes, random: Random) -> bytes:
    """A PyTorch archive of something else, or an archive with other bytes in it."""
    table = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}
    others: tuple[Any, ...] = (
        [1, 2], 7, "x", None, {}, {"state_dict": 3}, {"state_dict": {"a": [1]}}, {1: torch.ones(2)},
        {"a": torch.ones(1).expand(2**40)}, {"a": torch.ones(2, 2).to_sparse()},
        {"a": torch.empty(2**40, device="meta")},
        {"a": torch.nn.Parameter(torch.ones(2))}, {"a": {"b": torch.ones(2)}}, table,
    )  # fmt: skip
    file = io.BytesIO()
    torch.save(random.choice(others), file, _use_new_zipfile_serialization=random.random() < 0.7)
    return file.getvalue() if random.random() < 0.5 else random.choice(BYTES)(file.getvalue(), random)
