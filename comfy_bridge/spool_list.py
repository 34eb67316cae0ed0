"""Finished Clips at work: the list of what is kept, pictures of it, and what is cleared."""

from typing import TYPE_CHECKING

from liveavatar_runtime.spool.store import SpoolInfo, SpoolStore
from liveavatar_runtime.texts import fine_size

from .vae import published_colours

if TYPE_CHECKING:
    from torch import Tensor

LIST, CLEAR = "list", "clear"
DAY_SECONDS = 86400
MOST_BRANCHES = 100
"""That are listed of a video."""


def report(spools: SpoolStore, action: str, unused_days: float, only: str = "") -> str:
    """Do it, and say what is there now."""
    lines = _cleared(spools, unused_days, only) if action == CLEAR else []
    left = spools.spools()
    lines.append(f"{len(left)} spools, {fine_size(sum(info.size for info in left))} in {spools.root}")
    for info in left:
        lines += [str(info), *_branches(spools, info)]
    return "\n".join(lines)


def _cleared(spools: SpoolStore, unused_days: float, only: str) -> list[str]:
    refused: list[str] = []
    if only:
        before = sum(info.size for info in spools.spools())
        gone = spools.clear_only(only, refused.append)
        freed = before - sum(info.size for info in spools.spools())
        if gone:
            return [f"Cleared {only}: {fine_size(max(0, freed))}", *refused]
        return [f"Nothing was cleared: no video or branch is named {only}, or it is in use", *refused]
    infos = spools.clear(unused_days * DAY_SECONDS, refused.append)
    lines = [f"Cleared {len(infos)}: {fine_size(sum(info.size for info in infos))}"]
    left = len(spools.spools())
    if not unused_days and left:
        lines.append(f"{left} could not be cleared: they are in use, or the system refuses")
    return lines + refused


def _branches(spools: SpoolStore, info: SpoolInfo) -> list[str]:
    """Beside the video in which nothing changes."""
    branches = [branch for branch in spools.branches(info.key) if branch.mark]
    lines = [f"{info.short_key}/{branch}" for branch in branches[:MOST_BRANCHES]]
    return [*lines, f"and {len(branches) - MOST_BRANCHES} more branches"] if len(branches) > MOST_BRANCHES else lines


def pictures_of(spools: SpoolStore) -> "Tensor | None":
    """The contact sheet as an IMAGE [1, H, W, 3]; None where no clips are kept. No VAE is loaded for it."""
    import numpy as np
    import torch

    from liveavatar_runtime.spool.contact_sheet import draw_sheet

    sheet = draw_sheet(spools, published_colours())
    return None if sheet is None else torch.from_numpy(np.asarray(sheet).copy()).float()[None] / 255
