"""The rows of an encoded prompt that the transformer reads."""

from torch import Tensor


def read_rows(rows: Tensor, limit: int) -> tuple[Tensor, int]:
    """An encoded prompt [n, width] -> the part [<= limit, width] that the model reads, and how many tokens there are.

    Text encoders pad with rows of zeros. A prompt that fits keeps them, so that nothing changes for it. A longer one,
    such as two texts one behind the other, each padded, loses them first: then both texts count if they fit together.
    The part is a tensor of its own, so the whole need not stay in memory.
    """
    if rows.shape[0] <= limit:
        return rows, int(rows.any(dim=-1).sum())
    tokens = rows.any(dim=-1).nonzero().flatten()
    return rows[tokens[:limit]].clone(), len(tokens)
