"""Bytes of weights and caches that each rank holds, the caches measured where a run makes them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from liveavatar_runtime.dit.kv_cache import KVCache

from .ranks import Rank


def measured(rank: Rank, make_cache: Callable[..., KVCache]) -> Callable[..., Any]:
    """`make_cache` that notes in the store what it made."""

    def make(*arguments: Any) -> KVCache:
        cache = make_cache(*arguments)
        rank.store.set(f"caches/{rank.number}", str(cache.nbytes))
        return cache

    return make


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of weights that this rank holds."""
    parameters: list[Any] = list(model.parameters())
    local = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
    return sum(p.numel() * p.element_size() for p in local)


def cache_bytes(rank: Rank, count: int) -> list[int]:
    """Of all ranks that compute, once the first `count` of them have made theirs; the others have none."""
    keys = [f"caches/{number}" for number in range(count)]
    sizes = [int(rank.store.get(key)) if rank.store.check([key]) else 0 for key in keys]
    return sizes + [0] * (rank.size - count)
