"""Avatar Script and Script Change in a real ComfyUI: what each block is sampled with, how long the video becomes."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from comfy_server import ROOT
from safetensors.numpy import load_file
from told_cases import Told, check_told
from video_facts import probe

LOADER, SAMPLER, PLAN = "LiveAvatar_LoadAvatarModel", "LiveAvatar_DiTSampler", "LiveAvatar_ClipScheduler"
DECODER, SCRIPT, CHANGE = "LiveAvatar_OnlineVAEDecode", "LiveAvatar_AvatarScript", "LiveAvatar_ScriptChange"
SMALL = {"num_clip": 2, "infer_frames": 36, "width": 64, "height": 64, "seed": 1800}
"""6 blocks of 0.75 s."""
BLOCKS, STEPS, VOICE = 6, 4, ROOT / "demo" / "voice.wav"
BLUE, RED = (f"A friendly person talks to the camera in front of a {colour} wall." for colour in ("blue", "red"))
GREEN = f"{BLUE} It is green now."
TEXT = f"0:00 {BLUE}\n0:01.6 ... It is green now.\n0:03 {RED}"
"""The lines begin at blocks 0, 2 and 4."""
MODEL = "script-demo.safetensors"


@pytest.fixture(scope="module", autouse=True)
def model_file(server) -> None:
    """The demo model where Load Diffusion Model finds it, so that a patch can watch it."""
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors", folder / MODEL)


@pytest.fixture(scope="module")
def directed(server, short_clip):
    """directed(**plan): the short clip workflow with an empty script connected and its latents collected."""

    def build(**plan):
        prompt = short_clip(**{**SMALL, **plan})
        prompt.set("CLIPTextEncode", text=BLUE)
        loader, load_audio = prompt.id(LOADER), prompt.id("LoadAudio")
        prompt.add("script", SCRIPT, script="", clip=[loader, 1], audio=[load_audio, 0])
        prompt.set(SAMPLER, script=["script", 0], spool="until ComfyUI ends")
        prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id(SAMPLER), 0])
        return prompt

    return build


def run(server, prompt, name: str) -> tuple[np.ndarray, list[str]]:
    """Latents by block [16, 3, h, w], and the sampler's notes."""
    for kind in (DECODER, "PreviewImage"):
        del prompt.nodes[prompt.id(kind)]
    prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix=name)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    (file,) = server.output.glob(f"{name}_*.latent")
    frames = load_file(file)["latent_tensor"][0]
    return frames[:, -3 * (frames.shape[1] // 3) :], result.notes(prompt.id(SAMPLER))


def blocks(latents: np.ndarray) -> list[np.ndarray]:
    return np.split(latents, latents.shape[1] // 3, axis=1)


def equal_blocks(first: np.ndarray, second: np.ndarray) -> list[bool]:
    return [bool(np.array_equal(*pair)) for pair in zip(blocks(first), blocks(second), strict=True)]


def texts_read(server, prompt, name: str) -> list[str]:
    """Of each block, the keys of the text that all its evaluations read."""
    file = f"{name}.jsonl"
    prompt.add("base", "UNETLoader", unet_name=MODEL, weight_dtype="default")
    prompt.add("watch", "OddTextWatch", model=["base", 0], file=file, tokens=512)
    prompt.set(LOADER, base_model=["watch", 0])
    run(server, prompt, name)
    keys = [json.loads(line)["keys"] for line in (server.output / file).read_text(encoding="utf-8").splitlines()]
    by_block = [set(keys[first : first + STEPS]) for first in range(0, len(keys), STEPS)]
    assert all(len(found) == 1 for found in by_block)
    return [found.pop() for found in by_block]


def test_each_block_is_sampled_with_its_own_lines_text(server, directed):
    """Counted by a patch in the model's first layer; what a text's keys are is known from runs without a script."""
    alone = {}
    for colour, text in (("blue", BLUE), ("green", GREEN), ("red", RED)):
        prompt = directed(num_clip=1, infer_frames=12)
        prompt.set("CLIPTextEncode", text=text)
        (alone[colour],) = texts_read(server, prompt, f"alone-{colour}")
    assert len(set(alone.values())) == 3
    prompt = directed()
    prompt.set(SCRIPT, script=TEXT)
    expected = [alone[colour] for colour in ("blue", "blue", "green", "green", "red", "red")]
    assert texts_read(server, prompt, "read") == expected


@pytest.fixture(scope="module")
def plain(server, directed) -> np.ndarray:
    return run(server, directed(), "plain")[0]


def test_text_json_and_a_chain_of_conditionings_are_the_same(server, directed, plain):
    prompt = directed()
    prompt.set(SCRIPT, script=TEXT)
    prompt.add("json", "PreviewAny", source=["script", 2])
    written, notes = run(server, prompt, "written")
    assert equal_blocks(written, plain) == [True, True, False, False, False, False]
    facts = [note for note in notes if "->" in note]
    assert facts == [
        "Script 0:00 -> 0:00, clip 1 (nothing new)",
        "Script 0:01.6 -> 0:01.5, clip 1 (another prompt)",
        "Script 0:03 -> 0:03, clip 2 (another prompt)",
    ]
    (as_json,) = server.client.run(prompt.nodes).outputs["json"]["text"]
    assert json.loads(as_json)["lines"][1] == {"time": "0:01.6", "prompt": "... It is green now."}
    prompt = directed()
    prompt.set(SCRIPT, script=as_json)
    assert all(equal_blocks(run(server, prompt, "from-json")[0], written))
    chained = directed()
    # The order of the chain is not that of the times.
    for number, (start, text) in enumerate([("0:03", RED), ("0:01.6", GREEN)]):
        chained.add(f"text{number}", "CLIPTextEncode", text=text, clip=[chained.id(LOADER), 1])
        before = {"script": [f"change{number - 1}", 0]} if number else {}
        chained.add(f"change{number}", CHANGE, start=start, conditioning=[f"text{number}", 0], **before)
    chained.set(SAMPLER, script=["change1", 0])
    assert all(equal_blocks(run(server, chained, "chained")[0], written))


def test_pictures_seeds_and_strength_begin_at_their_blocks(server, directed, plain):
    for name, directive, fact in (
        ("picture", "[picture 2]", "another picture"),
        ("seed", "[seed 9]", "another seed"),
        ("motion", "[motion 0]", "another strength"),
    ):
        prompt = directed()
        picture = [prompt.id("LoadImage"), 0]
        prompt.add("other", "ImageInvert", image=picture)
        prompt.add("both", "ImageBatch", image1=picture, image2=["other", 0])
        prompt.set(SCRIPT, script=f"0:02.25 {directive}", images=["both", 0])
        found, notes = run(server, prompt, name)
        assert equal_blocks(found, plain) == [True] * 3 + [False] * 3, name
        assert f"Script 0:02.25 -> 0:02.25, clip 2 ({fact})" in notes
        if name == "picture":
            with_picture = found
    prompt = directed()
    prompt.add("other", "ImageInvert", image=[prompt.id("LoadImage"), 0])
    prompt.add("change", CHANGE, start="0:02.25", image=["other", 0])
    prompt.set(SAMPLER, script=["change", 0])
    assert all(equal_blocks(run(server, prompt, "picture-change")[0], with_picture))


def test_what_begins_with_the_video_replaces_the_inputs(server, directed):
    prompt = directed(num_clip=1)
    prompt.set(SCRIPT, script=f"0:00 [seed 9] {RED}")
    found, notes = run(server, prompt, "replaced")
    assert "line 1 of the script replaces the prompt of positive" in notes
    prompt = directed(num_clip=1, seed=9)
    prompt.set("CLIPTextEncode", text=RED)
    assert all(equal_blocks(run(server, prompt, "asked")[0], found))


def test_silence_makes_voice_and_video_longer_exactly(server, directed):
    prompt = directed(num_clip=0, end="voice")
    prompt.set(SCRIPT, script="0:01 [silence 1.25]")
    prompt.set("LiveAvatar_AudioEncode", audio=["script", 1])
    prompt.add("sound", "SaveAudio", audio=["script", 1], filename_prefix="silent")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    (given, rate), saved = samples_of(VOICE), result.outputs["sound"]["audio"][0]
    made, made_rate = samples_of(server.output / saved["subfolder"] / saved["filename"])
    silence = rate * 5 // 4
    assert made_rate == rate and made.shape[1] == given.shape[1] + silence
    assert not made[:, rate : rate + silence].any()
    assert np.array_equal(np.delete(made, np.s_[rate : rate + silence], axis=1), given)
    video = result.outputs[prompt.id(DECODER)]["images"][0]
    facts = probe(server.output / video["subfolder"] / video["filename"])
    seconds = Fraction(made.shape[1], rate)
    assert facts.frames == -(-seconds * 16 // 1)
    assert abs((facts.audio_duration or 0) - Fraction(facts.frames, 16)) <= Fraction(1, 16)


def samples_of(path: Path) -> tuple[np.ndarray, int]:
    """Samples [C, S] as 16 bit integers, and their rate."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        to_integers = av.AudioResampler("s16p")
        frames = [found.to_ndarray() for frame in container.decode(stream) for found in to_integers.resample(frame)]
        return np.concatenate(frames, axis=1), stream.rate


def scripted(text: str, **inputs):
    def build(prompt) -> None:
        loader = prompt.id(LOADER)
        prompt.add("script", SCRIPT, script=text, clip=[loader, 1])
        prompt.nodes["script"]["inputs"].update(inputs)
        prompt.nodes["script"]["inputs"] = {
            name: value for name, value in prompt.nodes["script"]["inputs"].items() if value is not None
        }
        prompt.set(SAMPLER, script=["script", 0], spool="until ComfyUI ends")

    return build


def changed(**inputs):
    def build(prompt) -> None:
        prompt.add("change", CHANGE, **{"start": "0:01", **inputs})
        prompt.set(SAMPLER, script=["change", 0], spool="until ComfyUI ends")

    return build


ONE_CLIP = {"num_clip": 1, "infer_frames": 24, "seed": 1801}
CASES = [
    Told("a line without a time", SCRIPT, "line 1 of the script is 'hello'", scripted("hello"), refused=True),
    Told("a time that is none", SCRIPT, "'0:75' is no time", scripted("0:75 A person"), refused=True),
    Told("a directive that is none", SCRIPT, r"\[smile\]", scripted("[smile]"), refused=True),
    Told("a prompt without clip", SCRIPT, "connect clip", scripted("0:01 A person", clip=None), refused=True),
    Told("a silence without a voice", SCRIPT, "connect the voice", scripted("0:01 [silence 1]"), refused=True),
    Told("a picture without pictures", SCRIPT, "no pictures are connected", scripted("[picture 2]"), refused=True),
    Told("a change of nothing", CHANGE, "nothing begins at 0:01", changed(), refused=True),
    Told("a change at no time", CHANGE, "'soon' is no time", changed(start="soon"), refused=True),
    Told(
        "behind the end",
        SAMPLER,
        "line 1 of the script .0:02. is behind the video's end",
        scripted("0:02 [seed 7]"),
        plan=ONE_CLIP,
    ),
    Told(
        "two at one block",
        SAMPLER,
        "begin at the same block",
        scripted("0:00.7 [seed 7]\n0:00.8 [seed 8]"),
        plan=ONE_CLIP,
    ),
    Told("an empty script", SCRIPT, "The script is empty", scripted(""), plan=ONE_CLIP),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_user_reads(server, short_clip, case):
    check_told(case, server, short_clip(**{**SMALL, **case.plan}))
