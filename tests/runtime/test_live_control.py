"""What is asked of a live video: messages that are read or refused, and what comes of them at which block."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.live.control import Control, Message, Wishes, read_message
from liveavatar_runtime.live.latency import BLOCKS_KEPT, LatencyMeter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.dictionaries(st.sampled_from(["prompt", "picture", "seed", "motion_strength", "script", "do"]), JSON)


@given(JSON | NAMED)
def test_whatever_is_sent_is_read_or_refused_with_a_sentence(sent: object) -> None:
    try:
        message = read_message(sent)
    except InputError as error:
        assert 10 < len(str(error)) < 1000
    else:
        assert isinstance(message, Message)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"do": "fly"}, "pause, go_on, stop, barge_in"),
        ({"Prompt": "a"}, "allowed are prompt"),
        ({"prompt": " "}, "1 to 10000 characters"),
        ({"seed": 1.5}, "whole number"),
        ({"motion_strength": 9}, "must be 0 to 3"),
        ({"script": "0:01 [silence 1]"}, "line 1 of the script"),
        ([], "must be an object"),
    ],
)
def test_wrong_messages_are_told(sent: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_message(sent)


def test_the_latest_wish_counts_and_script_lines_wait_for_their_time() -> None:
    control, now = Control(), Fraction(100)
    assert not control.is_asked(now)
    for prompt in ("a", "b"):
        control.ask(read_message({"prompt": prompt, "motion_strength": 0.5}), now)
    control.ask(read_message({"seed": 3}), now)
    assert control.is_asked(now) and control.take(now) == Wishes(prompt="b", motion_strength=0.5, seed=3)
    assert not control.is_asked(now)
    control.ask(read_message({"script": "0:02 Blue wall.\n0:04 [seed 7] ... and a smile"}), now)
    assert not control.is_asked(now + 2) and control.is_asked(now + 3)
    assert control.take(now + 3) == Wishes(prompt="Blue wall.")
    assert control.take(now + 30) == Wishes(prompt="Blue wall. and a smile", seed=7)


def test_latency_is_told_by_stage_and_nothing_grows() -> None:
    now = 0.0
    meter = LatencyMeter(0.48, lambda second: 10 + second, clock=lambda: now)
    for block in range(3 * BLOCKS_KEPT):
        ended = 10 + 0.48 * (block + 1)
        meter.heard(block, ended + 0.2, ended + 0.3, ended + 0.35)
        now = ended + 0.45
        meter.sampled(block)
        now = ended + 0.5
        meter.written(block)
        # The middle of the block is seen 0.24 s before its end, 0.1 s after it was written.
        meter.shown(0.48 * block + 0.24, ended + 0.6 - 0.24)
    meter.shown(1.0, -5.0)
    latency = meter.summary()
    assert latency.whole is not None and latency.whole.median == pytest.approx(0.6, rel=0.02)
    medians = {name: summary.median for name, summary in latency.stages.items() if summary is not None}
    expected = {
        "look_ahead": 0.2,
        "capture": 0.1,
        "features": 0.05,
        "steps": 0.1,
        "decode_and_mux": 0.05,
        "player": 0.1,
    }
    assert medians == pytest.approx(expected, rel=0.03)
    assert len(meter._blocks) == BLOCKS_KEPT  # pyright: ignore[reportPrivateUsage]
