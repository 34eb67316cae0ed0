"""What a function or an object of another pack is, as values to hash that are the same after a restart."""

import functools
import types
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

DEPTH = 8
"""How far objects that hold objects are followed."""


def identity(value: object, depth: int = DEPTH, seen: frozenset[int] = frozenset()) -> Iterator[object]:
    """Numbers, texts and tensors: of a function its code, its defaults and what it has caught; of an object its class
    and its attributes. Models are named only, their weights are told elsewhere."""
    if isinstance(value, (str, int, float, bool, type(None))):
        yield value
    elif isinstance(value, Tensor):
        yield value.detach().as_subclass(Tensor)
    elif isinstance(value, (bytes, complex, torch.dtype, torch.device)):
        yield str(value)
    elif isinstance(value, (type, types.ModuleType)):
        yield f"{getattr(value, '__module__', '')}.{value.__name__}"
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        if depth and id(value) not in seen and not _is_model(value):
            for part in _parts(value):
                yield from identity(part, depth - 1, seen | {id(value)})


def _parts(value: object) -> Iterator[object]:
    """What makes it what it is."""
    if isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield from (value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType())
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_consts, value.co_names)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from (part for key in sorted(value, key=str) for part in (str(key), value[key]))
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(map(str, value))
    else:
        yield getattr(value, "__qualname__", "")
        yield getattr(value, "__dict__", None)


def _is_model(value: object) -> bool:
    """A ModelPatcher, or what it holds."""
    return hasattr(value, "model_options") or hasattr(value, "diffusion_model")
