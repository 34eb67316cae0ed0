"""What belongs to which branch of a spool, what goes with one, and the pictures of all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar_runtime.spool.chain import Chain, Link
from liveavatar_runtime.spool.contact_sheet import MOST_ROWS, WIDTH, draw_sheet
from liveavatar_runtime.spool.first_frames import COLOURS, first_frame, read_colours
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.store import SpoolStore

KEY, CLIPS = "0123456789abcdef" * 2, 6
FIRST, SECOND, THIRD, ALONE = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)
SHAPE = (16, 3, 8, 12)
GREYS = [[0.0] * 3] * 16 + [[0.5] * 3]
"""Everything in one grey."""


def finished(folder: Path, links: tuple[Link, ...] = (), only: int | None = None) -> None:
    """The clips of a branch that are not there yet."""
    spool = Spool(folder, {"seed": 7}, chain=Chain(links, 1, CLIPS))
    spool.colours = GREYS
    assert spool.try_lock()
    for clip in range(CLIPS) if only is None else [only]:
        if not spool.has_clip(clip):
            spool.write_clip(clip, torch.full(SHAPE, float(clip)))
    spool.unlock()


@pytest.fixture
def store(tmp_path: Path) -> SpoolStore:
    """A video; a branch from clip 3 on and another one of that from clip 5 on; one from clip 2 on; clip 4 alone, which
    nobody has noted."""
    for links in ((), (Link(2, FIRST),), (Link(2, FIRST), Link(4, SECOND)), (Link(1, THIRD),)):
        finished(tmp_path / KEY, links)
    finished(tmp_path / KEY, (Link(3, ALONE),), only=3)
    (tmp_path / KEY / f"branch-{ALONE}.json").unlink()
    return SpoolStore(tmp_path)


def test_every_file_counts_for_one_branch(store):
    branches = {branch.mark: branch for branch in store.branches(KEY)}
    assert list(branches) == ["", THIRD, SECOND, ALONE]
    assert {mark: sorted(branch.clips) for mark, branch in branches.items()} == {
        "": [0, 1, 2, 3, 4, 5],
        THIRD: [1, 2, 3, 4, 5],
        # With what its clips 3 and 4, and the branch that it goes on from, had.
        SECOND: [2, 3, 4, 5],
        ALONE: [3],
    }
    (info,) = store.spools()
    assert sum(branch.size for branch in branches.values()) == info.size - sum(
        (store.root / KEY / name).stat().st_size for name in ("spool.json", COLOURS)
    )
    assert str(branches[SECOND]).startswith("bbbbbbbb: from clip 3 on, 4 clips of its own, ")


def test_one_branch_is_cleared_and_what_others_need_stays(store):
    finished(store.root / KEY, (Link(2, FIRST), Link(5, "e" * 16)))
    before = {path.name for path in (store.root / KEY).iterdir()}
    spool = Spool(store.root / KEY)
    assert spool.try_lock() and not store.clear_only(f"{KEY[:8]}/bbbbbbbb"), "it is in use"
    spool.unlock()
    assert store.clear_only(f"{KEY[:8]}/bbbbbbbb") == [f"{KEY[:8]}/bbbbbbbb"]
    gone = before - {path.name for path in (store.root / KEY).iterdir()}
    assert gone == {f"branch-{SECOND}.json", *(f"clip-00000{clip}-{SECOND}.safetensors" for clip in (4, 5))}
    assert store.clear_only(f"{KEY[:8]}/dddddddd") and not store.clear_only(f"{KEY[:8]}/dddddddd")
    assert not store.clear_only("0123") and not store.clear_only("") and not store.clear_only(f"{KEY[:8]}/")
    assert Spool(store.root / KEY).clips() == list(range(CLIPS))
    assert len(store.clear_only(KEY[:8])) == 1 and not store.spools()


def test_the_sheet_shows_the_clips_in_the_video_s_colours(store):
    others = torch.zeros(17, 3)
    sheet = draw_sheet(store, others)
    assert sheet is not None and WIDTH / 2 < sheet.width < WIDTH, "as wide as six pictures"
    grey = (np.asarray(sheet) == round(1.5 * 127.5)).all(-1)
    pictures = 6 + 5 + 4 + 1
    assert grey.mean() > pictures * 0.6 * (WIDTH / 9) ** 2 * 8 / 12 / grey.size
    (store.root / KEY / COLOURS).write_bytes(b"[1, 2]")
    assert read_colours(store.root / KEY) is None
    assert not (np.asarray(draw_sheet(store, others)) == round(1.5 * 127.5)).all(-1).any()


def test_the_sheet_has_an_end(tmp_path):
    assert draw_sheet(SpoolStore(tmp_path / "none"), torch.zeros(17, 3)) is None
    for number in range(MOST_ROWS + 3):
        finished(tmp_path / f"{number:032x}", only=number % CLIPS)
    sheet = draw_sheet(SpoolStore(tmp_path), torch.zeros(17, 3))
    assert sheet is not None and 2000 < sheet.height < 6000


def latents(path: Path, tensor: Tensor) -> Path:
    spool = Spool(path / "video", chain=Chain((), 1, 1))
    assert spool.try_lock()
    spool.write_clip(0, tensor)
    return next((path / "video").glob("clip-*"))


def test_the_first_frame_alone_is_read_and_anything_else_is_none(tmp_path):
    clip = torch.randn(SHAPE)
    path = latents(tmp_path, clip)
    found = first_frame(path)
    assert found is not None and torch.equal(found, clip[:, 0])
    whole = path.read_bytes()
    for broken in (
        b"",
        whole[:4],
        whole[:60],
        whole[:2000],
        b"\xff" * len(whole),
        b"\x02" + b"\0" * 7 + b"[]",
        whole[8:],
    ):
        path.write_bytes(broken)
        assert first_frame(path) is None
    assert first_frame(tmp_path / "none") is None and first_frame(tmp_path) is None
