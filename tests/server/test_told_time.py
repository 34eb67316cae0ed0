"""Time has one source: what users read when nodes disagree about it; videos that end with the voice; sizes."""

import json
from typing import Any

import pytest
from comfy_workflow import nodes_of
from page_translator import left_in_english
from PIL import Image
from prompt_builder import PromptBuilder
from safetensors.numpy import load_file
from test_long_video import WORKFLOWS
from test_output_choices import DECODE, JOIN, saved
from test_told import short_sound
from told_cases import SMALL, Told, check_told, refusal
from video_facts import probe

SAMPLER, SCHEDULER, ENCODE = "LiveAvatar_DiTSampler", "LiveAvatar_ClipScheduler", "LiveAvatar_AudioEncode"
CALC = "LiveAvatar_DurationCalc"
SECONDS = 1.4
LEFT_OUT = r"voice 1\.40 s, video {video} s: the last {rest} s of the voice are left out; num_clip {needed} covers it"


def unsampled(prompt: PromptBuilder) -> None:
    """Nothing is sampled: what is told here is told before."""
    del prompt.nodes[prompt.id(DECODE)]
    prompt.add("nothing", "PreviewAny", source=[prompt.id(SAMPLER), 0])


def short_voice(prompt: PromptBuilder) -> None:
    prompt.set(ENCODE, audio=short_sound(prompt, SECONDS))


def clips_of_the_voice(prompt: PromptBuilder) -> None:
    """As many as Audio Encode says, with its own time: 48 frames a clip, 16 a second, so one."""
    short_voice(prompt)
    prompt.set(SCHEDULER, num_clip=[prompt.id(ENCODE), 2])


def bounded_voice(prompt: PromptBuilder) -> None:
    """Counted by Duration Calc, too."""
    prompt.set(ENCODE, audio=short_sound(prompt, 2.5), context="bounded")
    prompt.add("calc", CALC, solve_for="num_clip", num_clip=1, **TIME, avatar_audio=[prompt.id(ENCODE), 0])
    prompt.set(SCHEDULER, num_clip=["calc", 0])


def clips_of_another_rate(prompt: PromptBuilder) -> None:
    clips_of_the_voice(prompt)
    prompt.set(ENCODE, infer_frames=12, fps=120.0)


def clips_of_duration_calc(prompt: PromptBuilder) -> None:
    """Duration Calc has the voice's duration, and clips of 24 frames."""
    short_voice(prompt)
    time = {"solve_for": "num_clip", "num_clip": 10, "infer_frames": 24, "fps": 16.0}
    prompt.add("calc", CALC, **time, duration=[prompt.id(ENCODE), 1])
    prompt.set(SCHEDULER, num_clip=["calc", 0])


def wide_picture(prompt: PromptBuilder) -> None:
    prompt.add("wide", "EmptyImage", width=192, height=108, batch_size=1, color=0x4060A0)
    prompt.set(SAMPLER, image=["wide", 0])
    short_voice(prompt)


def trim_of_two_frames(prompt: PromptBuilder) -> None:
    prompt.set(ENCODE, audio=short_sound(prompt, 0.1))
    prompt.set(DECODE, start="trim")


def no_room_for_states(prompt: PromptBuilder) -> None:
    short_voice(prompt)
    prompt.set(SAMPLER, state_budget=0.0)


def only_planned(prompt: PromptBuilder) -> None:
    """The plan alone, whose size the demo model does not know; its frame rate comes over a link."""
    del prompt.nodes[prompt.id(SAMPLER)]
    prompt.set("nothing", source=[prompt.id(SCHEDULER), 0])
    prompt.add("rate", "PrimitiveFloat", value=25.0)
    prompt.set(SCHEDULER, fps=["rate", 0])


def alone(prompt: PromptBuilder, **inputs: Any) -> None:
    """Duration Calc and nothing else but what its inputs name."""
    voice = prompt.nodes[prompt.id("LoadAudio")]
    prompt.nodes.clear()
    prompt.nodes["voice"] = voice
    prompt.add("calc", CALC, **{"solve_for": "num_clip", "num_clip": 1, **TIME, **inputs})
    prompt.add("nothing", "PreviewAny", source=["calc", 3])


TIME = {"infer_frames": 48, "fps": 29.97, "duration": 1.0}


CASES = [
    Told(
        "another clip length than Audio Encode counted with",
        SAMPLER,
        LEFT_OUT.format(video=r"0\.75", rest=r"0\.65", needed=2),
        build=clips_of_the_voice,
    ),
    Told(
        "a voice with bounded context",
        ENCODE,
        "context bounded: a longer voice continues the video; the first 1 s of it stay as they are",
        build=bounded_voice,
    ),
    Told(
        "another frame rate than Audio Encode counted with",
        SAMPLER,
        LEFT_OUT.format(video=r"0\.48", rest=r"0\.92", needed=3),
        build=clips_of_the_voice,
        plan={"fps": 25.0},
    ),
    Told(
        "a higher frame rate in Audio Encode",
        SAMPLER,
        r"num_clip 14 was reduced to 2: the sound lasts 1\.40 s, which 2 clips of 12 frames at 16 fps cover",
        build=clips_of_another_rate,
    ),
    Told(
        "another clip length in Duration Calc",
        SAMPLER,
        LEFT_OUT.format(video=r"0\.75", rest=r"0\.65", needed=2),
        build=clips_of_duration_calc,
    ),
    Told(
        "fewer clips than the voice fills",
        SAMPLER,
        LEFT_OUT.format(video=r"0\.75", rest=r"0\.65", needed=2),
        build=short_voice,
    ),
    Told(
        "silence behind the voice",
        SAMPLER,
        r"^voice 1\.40 s, video 1\.50 s: 0\.10 s of silence at the end \(end voice in Clip Scheduler",
        build=short_voice,
        plan={"num_clip": 0},
    ),
    Told("an open plan", SCHEDULER, "^As many clips as the voice needs", build=short_voice, plan={"num_clip": 0}),
    Told(
        "a segment behind the voice's last one",
        SAMPLER,
        r"segment_index is 2; the voice fills 2 clips, which in segments of 1 make 2, so allowed is 0 to 1",
        build=short_voice,
        refused=True,
        plan={"num_clip": 0, "segment_clips": 1, "segment_index": 2},
    ),
    Told(
        "a preset that decides otherwise than widgets and links",
        SCHEDULER,
        "^⚠ preset 120 s: num_clip 40 instead of 1, infer_frames 48 instead of 12, fps 16 instead of 25, size 496x496 "
        "instead of custom$",
        build=only_planned,
        # The second segment of one clip would be refused.
        plan={"preset": "120 s", "segment_clips": 10, "segment_index": 1},
    ),
    Told(
        "a segment of a plan that is not cut",
        SCHEDULER,
        "segment_index is 1 and segment_clips 0",
        refused=True,
        plan={"num_clip": 0, "segment_index": 1},
    ),
    Told(
        "the article's clip length",
        SCHEDULER,
        r"infer_frames is 32.*Use 36 or 24",
        plan={"infer_frames": 32},
        refused=True,
    ),
    Told(
        "trim of all that there is",
        DECODE,
        "start trim leaves out the first 3 frames, and this video has 2",
        build=trim_of_two_frames,
        plan={"num_clip": 0, "end": "voice"},
        refused=True,
    ),
    Told(
        "a picture that is cropped",
        SAMPLER,
        r"44% of the picture's width is cropped: with keep_aspect both sides are multiples of 64, here 64x64",
        build=wide_picture,
        plan={"num_clip": 0},
    ),
    Told(
        "segments without room for states",
        SAMPLER,
        r"The segments of this video go on after a warm-up: almost, not bit for bit. No state is kept, as one takes",
        build=no_room_for_states,
        plan={"num_clip": 0, "segment_clips": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    prompt = short_clip(**{**SMALL, **case.plan})
    if case.node != DECODE:
        unsampled(prompt)
    check_told(case, server, prompt)


@pytest.mark.parametrize(
    ("inputs", "told", "hms"),
    [
        (
            {"audio": ["voice", 0]},
            "Voice: 6.94 s; 5 clips of 48 frames at 29.97 (30000/1001) fps cover it",
            "0:00:08.008",
        ),
        ({"duration_hms": " 1:00:00 "}, "2248 x 48 frames / 29.97 (30000/1001) fps = 1 h 0 min 0.4 s", "1:00:00.396"),
        ({"duration_hms": " "}, "1 x 48 frames / 29.97 (30000/1001) fps = 1.6 s (48 frames)", "0:00:01.601"),
        (
            {"solve_for": "duration", "audio": ["voice", 0]},
            "⚠ solve_for is duration, so num_clip counts and the voice does not",
            "0:00:01.601",
        ),
    ],
)
def test_duration_calc(server, short_clip, inputs, told, hms):
    prompt = short_clip(**SMALL)
    alone(prompt, **inputs)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    notes = result.notes("calc")
    assert notes[0].startswith(told), notes
    assert f"Hours:minutes:seconds: {hms}" in notes
    assert result.outputs["nothing"]["text"] == [hms]
    assert any(line.startswith("File: about ") and "688x368" in line for line in notes)
    # That depends on the RAM.
    unknown = "none, as 688x368 does not fit there with the 14B model in bf16", "not known, as its speed is not"
    assert any(f"Time on the processor: {why}" in notes for why in unknown)
    assert not left_in_english(notes)


def test_a_length_that_cannot_be_read_is_refused(server, short_clip):
    prompt = short_clip(**SMALL)
    alone(prompt, duration_hms="1:75")
    text = refusal(server, prompt, CALC)
    assert "duration_hms is '1:75'. Give hours:minutes:seconds such as 1:02:30" in text


def test_a_size_that_several_choices_give(server, short_clip):
    """A square picture in 96x80 is 64x64; that 64x64 gives the same is said."""
    prompt = short_clip(**{**SMALL, "width": 96, "height": 80})
    unsampled(prompt)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    text = "\n".join(result.notes(prompt.id(SAMPLER)))
    assert "keep_aspect makes 64x64 of 96x80 for this picture. Width and height of 64x64 give the same" in text
    assert "the next larger size is 128x128" in text and "nothing of the picture is cropped" in text
    assert "After a stop this video goes on bit for bit, from exact states of" in text


@pytest.fixture(scope="module")
def with_the_voice(server, short_clip):
    """A video of two clips that ends with the voice of 1.15 s: at 16 frames a second, with its 19th frame."""
    prompt = short_clip(**{**SMALL, "num_clip": 0}, seed=61, end="voice")
    prompt.set(ENCODE, audio=short_sound(prompt, 1.15))
    decode = prompt.id(DECODE)
    prompt.set(DECODE, return_frames=True, filename_prefix="told/voice")
    prompt.add("all", "SaveImage", images=[decode, 2], filename_prefix="told/all")
    prompt.add("last", "SaveImage", images=[decode, 1], filename_prefix="told/last")
    prompt.add("collected", "LiveAvatar_CollectLatents", latents=[prompt.id(SAMPLER), 0])
    prompt.add("latent", "SaveLatent", samples=["collected", 0], filename_prefix="told/latent")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    return prompt, result


def test_a_video_ends_with_the_frame_of_the_last_sample(server, with_the_voice):
    prompt, result = with_the_voice
    facts = probe(saved(server, result, prompt.id(DECODE)))
    assert facts.frames == 19 and abs(float(facts.audio_duration or 0) - 19 / 16) < 1 / 32
    assert result.progress(prompt.id(DECODE))[-1] == (19, 19)
    pictures = [server.output / entry["subfolder"] / entry["filename"] for entry in result.outputs["all"]["images"]]
    assert len(pictures) == 19
    last = result.outputs["last"]["images"][0]
    with Image.open(pictures[-1]) as a, Image.open(server.output / last["subfolder"] / last["filename"]) as b:
        assert a.tobytes() == b.tobytes()
    notes = result.notes(prompt.id(SAMPLER))
    assert "The video ends with the voice" in notes[0] and "64x64, 2 clips, 19 frames" in notes[1]
    assert (
        "cut to 5 whole latents of 4 frames, the fewest that hold the video's 19 frames"
        in result.notes("collected")[-1]
    )
    (latent,) = (server.output / "told").glob("latent_*.latent")
    assert load_file(latent)["latent_tensor"].shape[2] == 5


def test_trim_and_clip_ends_of_the_same_clips(server, with_the_voice):
    """`end` is no part of what is kept: nothing is sampled again for another one."""
    prompt, _ = with_the_voice
    nodes = json.loads(json.dumps(prompt.nodes))
    for node in ("all", "last", "collected", "latent"):
        del nodes[node]
    decode, scheduler = prompt.id(DECODE), prompt.id(SCHEDULER)
    for end, start, frames in (("voice", "trim", 16), ("clip", "hold", 24)):
        nodes[scheduler]["inputs"]["end"] = end
        nodes[decode]["inputs"].update(start=start, return_frames=False)
        result = server.client.run(nodes)
        result.raise_for_error()
        facts = probe(saved(server, result, decode))
        assert facts.frames == frames and abs(float(facts.audio_duration or 0) - frames / 16) < 1 / 32
        assert not result.previews(), "clips were sampled again"


def test_segments_that_end_with_the_voice_join(server, object_info):
    """Of three segments of a voice that ends in the third, only the third is shorter; the joined file agrees."""
    prompt = PromptBuilder(json.loads((WORKFLOWS / "long_video_segments.json").read_text()), object_info)
    prompt.set(ENCODE, audio=short_sound(prompt, 2.1))
    for node in nodes_of(prompt.nodes, SCHEDULER):
        prompt.nodes[node]["inputs"].update(infer_frames=12, end="voice")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    parts = [probe(saved(server, result, node)) for node in nodes_of(prompt.nodes, DECODE)]
    assert [part.frames for part in parts] == [12, 12, 10]
    whole = probe(saved(server, result, prompt.id(JOIN)))
    assert whole.frames == 34 and abs(float(whole.audio_duration or 0) - 34 / 16) < 1 / 32
