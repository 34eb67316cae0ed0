"""Scripts as text and as JSON, and their changes put at blocks."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from liveavatar_runtime.audio.silence import Silence, with_silences
from liveavatar_runtime.duration import format_time, nearest_block, parse_time, sample_at
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import encode_picture, encode_references
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.sampling.script_text import Line, as_json, as_text, full_prompts, read_lines
from liveavatar_runtime.sampling.timed_changes import Directions, PlacedChanges, TimedChange, place_changes
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE

PLAN = ClipPlan(num_clip=4, infer_frames=48, width=64, height=64, keep_aspect=False, seed=420)
TEXTS = [torch.full((4, 8), float(value)) for value in range(4)]
PICTURE = torch.zeros(8, 8, 3)

thousandths = st.integers(0, 10_000_000).map(lambda n: Fraction(n, 1000))
prompts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "[seed 7] no directive", "\\[x", "\\", "... laughs", "…笑", "# none", "0:12 twelve"]
)
lines = st.builds(
    Line,
    at=thousandths,
    prompt=prompts.map(lambda text: " ".join(part.strip() for part in text.splitlines() if part.strip())),
    silence=st.none() | st.integers(1, 3_600_000).map(lambda n: Fraction(n, 1000)),
    seed=st.none() | st.integers(0, 2**64 - 1),
    picture=st.none() | st.integers(1, 10_000),
    motion=st.none() | st.integers(0, 3000).map(lambda n: n / 1000),
).filter(lambda line: line != Line(at=line.at))


@given(st.lists(lines))
def test_text_and_json_say_the_same(given_lines: list[Line]):
    opening = Line(at=Fraction(0), prompt="A person talks.")
    script = (opening, *sorted(given_lines, key=lambda line: line.at))
    text = as_text(script)
    assert read_lines(text) == script
    assert read_lines(as_json(read_lines(text))) == script
    assert as_text(read_lines(as_json(script))) == text


@given(thousandths)
def test_times_are_read_as_they_are_written(seconds: Fraction):
    text = format_time(seconds)
    assert parse_time(text) == seconds and ":" in text


@given(st.fractions(0, 1000), st.sampled_from([Fraction(16), Fraction(25), Fraction(30000, 1001)]))
def test_no_other_block_is_nearer(seconds: Fraction, fps: Fraction):
    block = nearest_block(seconds, fps)
    distance = abs(seconds - block * 12 / fps)
    assert all(distance <= abs(seconds - (block + step) * 12 / fps) for step in (-1, 1))


def test_a_script():
    script = read_lines(
        """# who and where
        0:00 A friendly person talks in front of a blue wall.
        [seed 7]

        0：12.5 [silence 1.5 s]【picture: 2】 ... laughs
        0:20 ... looks to the left
        1:00:00 [Motion = 0.8]
        1:00:01 \\[sic] A new scene"""
    )
    assert [(float(line.at), line.number) for line in script] == [
        *((0, 2), (0, 3), (12.5, 5)),
        *((20, 6), (3600, 7), (3601, 8)),
    ]
    assert full_prompts(script) == [
        "A friendly person talks in front of a blue wall.",
        "",
        "A friendly person talks in front of a blue wall. laughs",
        "A friendly person talks in front of a blue wall. looks to the left",
        "",
        "[sic] A new scene",
    ]
    line = replace(script[2], prompt="")
    assert line == Line(at=Fraction(25, 2), silence=Fraction(3, 2), picture=2)
    assert (script[1].seed, script[4].motion) == (7, 0.8)
    assert read_lines("") == read_lines(" \n# nothing\n") == ()
    # A list of entries alone, with seconds as a number.
    assert read_lines('[{"time": 0.5, "prompt": "A\\nB", "seed": 3}]') == (
        Line(at=Fraction(1, 2), prompt="A B", seed=3),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nhello", "line 2 of the script is 'hello'.*begins with its time"),
        ("12 monkeys", "begins with its time"),
        ("0:75 A person", "line 1 of the script: '0:75' is no time.*below 60"),
        ("0:12", "has a time and nothing else"),
        ("0:12 [smile] x", r"has \[smile\].*silence SECONDS"),
        ("[seed 1][seed 2]", "twice"),
        ("[seed 18446744073709551616]", "whole numbers from 0 to 18446744073709551615"),
        ("[seed 1.5]", "whole numbers"),
        ("[picture 0]", "from 1"),
        ("[motion 4]", "motion as '4'; allowed are 0 to 3"),
        ("[motion nan]", "allowed are 0 to 3"),
        ("[silence 0]", "allowed are 0.001 to 3600"),
        ("0:12 ... laughs", r"begins with \.\.\., .*there is none"),
        ("0:12 A\n0:10 B", "line 2 of the script begins at 0:10, before the one above it .0:12."),
        ("{", "begins as JSON and is none"),
        ('{"version": 2, "lines": []}', "version 2"),
        ('{"lines": 3}', "'lines' is int"),
        ('{"name": "x", "lines": []}', "'name'; allowed are"),
        ('[{"time": "0:01"}]', "at least one of"),
        ('[{"time": "0:01", "text": "x"}]', "line 1 of the script is .*prompt, silence"),
        ('[{"prompt": "x"}]', "An entry has a time"),
        ('[{"time": true, "prompt": "x"}]', "'true' is no time"),
        ('[{"time": "0:01", "prompt": 3}]', "a prompt is a text"),
        ('[{"time": "0:01", "seed": true}]', "seed as True"),
        pytest.param('{"lines": ' + "[" * 100_000, "begins as JSON and is none", id="deep"),
    ],
)
def test_what_is_wrong_is_told(text: str, said: str):
    with pytest.raises(InputError, match=said):
        read_lines(text)


def test_silences_are_put_in_at_their_times_of_the_finished_sound():
    rate, sound = 1000, torch.arange(1.0, 4001).repeat(2, 1)
    asked = [
        Silence(Fraction(1), Fraction(1, 2)),
        Silence(Fraction(5, 4), Fraction(1)),
        Silence(Fraction(3), Fraction(2)),
    ]
    made, late = with_silences(sound, rate, asked)
    assert not late and made.shape == (2, 7500)
    silent = (made[0] == 0).nonzero().flatten()
    # The second one begins within the first and makes it longer.
    assert silent.tolist() == [*range(1000, 2500), *range(3000, 5000)]
    assert torch.equal(made[:, made[0] != 0], sound)
    made, late = with_silences(sound, rate, [Silence(Fraction(4), Fraction(1)), Silence(Fraction(6), Fraction(1))])
    assert made.shape == (2, 5000) and late == (Silence(Fraction(6), Fraction(1)),)
    assert sample_at(Fraction(1, 3), 44100) == 14700


def changed(at: float, name: str = "line", **new: object) -> TimedChange:
    return TimedChange(Fraction(at), name, Directions(**new))  # type: ignore[arg-type]


def placed(*changes: TimedChange, plan: ClipPlan = PLAN) -> PlacedChanges:
    return place_changes(plan, TEXTS[0], PICTURE, changes)


def test_no_change_leaves_the_plan_as_it_is():
    found = placed()
    assert found.plan is PLAN
    assert found.text is TEXTS[0] and found.picture is PICTURE and not (found.texts or found.pictures or found.facts)


def test_changes_begin_at_the_nearest_block():
    """A block is 0.75 s at 16 frames a second."""
    picture: Tensor = torch.ones(16, 4, 3)
    found = placed(
        changed(6.3, text=TEXTS[1]), changed(2.9, picture=picture, seed=7), changed(11.2, motion=0.5, text=TEXTS[2])
    )
    assert found.plan.script == Script(
        (
            Change(block=4, picture=True, seed=7),
            Change(block=8, text=True),
            Change(block=15, text=True, motion=0.5),
        )
    )
    assert found.texts == {8: TEXTS[1], 15: TEXTS[2]} and found.pictures == {4: picture}
    assert found.facts == (
        "Script 0:02.9 -> 0:03, clip 2 (another picture, another seed)",
        "Script 0:06.3 -> 0:06, clip 3 (another prompt)",
        "Script 0:11.2 -> 0:11.25, clip 4 (another prompt, another strength)",
    )
    assert not found.warnings


def test_what_begins_with_the_video_replaces_the_inputs():
    found = placed(changed(0.3, "line 1", text=TEXTS[1], seed=7, motion=0.5), changed(3, text=TEXTS[1], seed=7))
    assert found.text is TEXTS[1] and found.picture is PICTURE and not found.texts
    assert found.plan == replace(PLAN, seed=7, script=Script((), 0.5))
    assert found.facts[1:4] == (
        "line 1 replaces the prompt of positive",
        "line 1 replaces the plan's seed",
        "line 1 replaces motion_strength of DiT Sampler",
    )
    assert found.facts[-1] == "Script 0:03 -> 0:03, clip 2 (nothing new)"


def test_what_changes_nothing_is_no_change():
    found = placed(
        changed(3, text=TEXTS[0].clone(), picture=PICTURE.clone(), seed=420, motion=1.0),
        changed(6, text=TEXTS[1]),
        changed(9, text=TEXTS[1].double(), picture=torch.zeros(9, 8, 3)),
    )
    assert found.plan.script == Script((Change(block=8, text=True), Change(block=12, picture=True)))


def test_of_two_on_one_block_the_later_counts():
    found = placed(changed(3, "line 1", text=TEXTS[1], seed=7), changed(3.2, "line 2", text=TEXTS[2]))
    assert found.plan.script == Script((Change(block=4, text=True, seed=7),)) and found.texts == {4: TEXTS[2]}
    (warning,) = found.warnings
    assert warning.startswith("line 1 (0:03) and line 2 (0:03.2) begin at the same block, and the later one counts")


def test_what_is_behind_the_end_is_told():
    """Of a video that ends with the voice, also what would begin in the part that is left out."""
    found = placed(changed(12, "line 1", seed=7), changed(11.25, "line 2", seed=8))
    assert found.plan.script == Script((Change(block=15, seed=8),))
    assert "line 1 (0:12) is behind the video's end" in found.warnings[0] and "is 0:11.25." in found.warnings[0]
    cut = placed(changed(11.25, seed=8), plan=replace(PLAN, cut_frames=13))
    assert cut.plan.script == Script() and "is 0:10.5." in cut.warnings[0]


def test_equal_pictures_are_encoded_once():
    torch.manual_seed(0)
    place = PlacedVAE(WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval(), torch.device("cpu"), torch.float32)
    first, second = torch.rand(32, 32, 3), torch.rand(32, 16, 3)
    reference = torch.zeros(16, 1, 8, 8)
    given_pictures = {2: second, 4: first.clone(), 6: second.clone()}
    found = encode_references(place, given_pictures, PLAN, (first, reference))
    assert found[4] is reference and found[6] is found[2] and found[2].shape == reference.shape
    assert torch.equal(found[2], encode_picture(place, second, PLAN, 19)[0])


def test_the_strength_of_the_sampler_holds_until_a_line_says_another():
    calm = replace(PLAN, script=Script(motion=0.8))
    assert placed(plan=calm).plan is calm
    assert placed(changed(3, seed=7), plan=calm).plan.script == Script((Change(block=4, seed=7),), 0.8)
    assert placed(changed(3, motion=1.0), plan=calm).plan.script == Script((Change(block=4, motion=1.0),), 0.8)
    assert placed(changed(0, motion=1.5), plan=calm).plan == replace(PLAN, script=Script((), 1.5))
    assert replace(PLAN, script=replace(PLAN.script, motion=1.0)) == PLAN
