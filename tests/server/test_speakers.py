"""Speakers in a real ComfyUI: areas by faces, by masks, by parts; what is refused; what the latents follow."""

import numpy as np
import pytest
from comfy_server import ROOT
from PIL import Image
from prompt_builder import PromptBuilder
from safetensors.numpy import load_file
from told_cases import Told, check_told

SPEAKERS, SAMPLER, VOICE = "LiveAvatar_Speakers", "LiveAvatar_DiTSampler", "LiveAvatar_AudioEncode"
PEOPLE, TALK = "liveavatar_two_people.png", "liveavatar_conversation.wav"
PLAN = {"num_clip": 1, "infer_frames": 12, "width": 128, "height": 64, "seed": 1900}
TURNS = "0:00 1\n0:00.4 2"


@pytest.fixture(scope="module")
def talking(short_clip):
    """talking(**inputs of Speakers): two people and their conversation, up to Speakers, of which faces are asked."""

    def build(**inputs) -> PromptBuilder:
        prompt = short_clip(**PLAN)
        for kind in ("LiveAvatar_OnlineVAEDecode", "PreviewImage"):
            del prompt.nodes[prompt.id(kind)]
        prompt.set("LoadImage", image=PEOPLE)
        prompt.set("LoadAudio", audio=TALK)
        given = {"voice_1": [prompt.id(VOICE), 0], "image": [prompt.id("LoadImage"), 0]}
        given |= {"mode": "one recording", "turns": TURNS, **inputs}
        prompt.add("speakers", SPEAKERS, **{name: value for name, value in given.items() if value is not None})
        return prompt

    return build


def with_masks(prompt: PromptBuilder, *left: int | None, width: int = 64, size: int = 128) -> PromptBuilder:
    """Masks that begin at columns of a picture `size` wide; an empty one for None."""
    prompt.add("dark", "SolidMask", value=0.0, width=size, height=64)
    prompt.add("light", "SolidMask", value=1.0, width=width, height=64)
    for number, x in enumerate(left, 1):
        if x is None:
            prompt.set("speakers", **{f"mask_{number}": ["dark", 0]})
            continue
        placed = {"destination": ["dark", 0], "source": ["light", 0], "x": x, "y": 0, "operation": "add"}
        prompt.add(f"mask{number}", "MaskComposite", **placed)
        prompt.set("speakers", **{f"mask_{number}": [f"mask{number}", 0]})
    return prompt


def sampled(server, prompt: PromptBuilder, name: str) -> tuple[np.ndarray, list[str]]:
    """The block's latents [16, 3, 8, 16], and the sampler's notes."""
    prompt.set(SAMPLER, avatar_audio=["speakers", 0])
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id(SAMPLER), 0])
    prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix=name)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    (file,) = server.output.glob(f"{name}_*.latent")
    return load_file(file)["latent_tensor"][0], result.notes(prompt.id(SAMPLER))


def test_the_node_alone_shows_whose_area_is_where(server, talking):
    prompt = talking()
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    (shown,) = result.outputs["speakers"]["images"]
    picture = np.asarray(
        Image.open(server.base / shown["type"] / shown["subfolder"] / shown["filename"]).convert("RGB")
    )
    given = np.asarray(Image.open(ROOT / "demo" / "two_people.png").convert("RGB"))
    assert picture.shape == given.shape
    more = picture.astype(int) - given
    left, right = more[40:, 40:480].mean(axis=(0, 1)), more[40:, 540:980].mean(axis=(0, 1))
    assert left[2] - left[0] > 15 > -15 > right[2] - right[0], "blue on the left, orange on the right"
    notes = result.notes("speakers")
    assert notes == [
        "2 speakers, 7.46 s",
        "2 faces were found; from left to right they are speakers 1 to 2",
    ]


def test_masks_and_turns_decide_what_is_sampled(server, talking):
    """The halves of the picture are the areas that the faces give, and all videos are told apart."""
    by_faces, notes = sampled(server, talking(), "faces")
    assert "2 speakers, each in an area of the picture" in notes
    assert not any("faces were found in the picture" in note for note in notes)
    halves, _ = sampled(server, with_masks(talking(mask_margin=0.0), 0, 64), "halves")
    assert np.array_equal(halves, by_faces)
    swapped, _ = sampled(server, with_masks(talking(mask_margin=0.0), 64, 0), "swapped")
    assert not np.array_equal(swapped, halves)
    other_turns, _ = sampled(server, talking(turns="0:00 2\n0:00.4 1"), "turns")
    # The same people speak at the same times, in another order of rows, which some processors round differently.
    np.testing.assert_allclose(other_turns, swapped, rtol=0, atol=1e-3)
    assert np.abs(halves - swapped).max() > 0.1


def test_two_voices_together_and_one_after_another(server, talking):
    prompt = talking(mode="together", turns="")
    prompt.add("second", "LoadAudio", audio="liveavatar_voice.wav")
    prompt.add(
        "voice2", VOICE, audio=["second", 0], audio_encoder=prompt.nodes[prompt.id(VOICE)]["inputs"]["audio_encoder"]
    )
    prompt.set("speakers", voice_2=["voice2", 0])
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert "2 speakers, 7.46 s" in result.notes("speakers")
    prompt.set("speakers", mode="one after another", turns="0:08 2")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert {"2 speakers, 14.94 s", "Voices begin: 1 at 0:00, 2 at 0:08"} <= set(result.notes("speakers"))


def speaking(**inputs):
    def build(prompt: PromptBuilder) -> None:
        prompt.set("speakers", **inputs)
        prompt.nodes["speakers"]["inputs"] = {
            k: v for k, v in prompt.nodes["speakers"]["inputs"].items() if v is not None
        }

    return build


def masked(*left: int | None, **kind: int):
    def build(prompt: PromptBuilder) -> None:
        with_masks(prompt, *left, **kind)

    return build


def without_cascades(prompt: PromptBuilder) -> None:
    prompt.add("plain", "EmptyImage", width=128, height=64, batch_size=1, color=0x808080)
    prompt.set("speakers", image=["plain", 0])


def sampler_with(image: str):
    def build(prompt: PromptBuilder) -> None:
        prompt.add("other", "LoadImage", image=image)
        prompt.set(SAMPLER, avatar_audio=["speakers", 0], image=["other", 0])
        prompt.add("end", "OddEnd", value=[prompt.id(SAMPLER), 0])

    return build


CASES = [
    Told("turns without a number", SPEAKERS, "line 1 of turns is '0:00'", speaking(turns="0:00"), refused=True),
    Told("no turns", SPEAKERS, "turns is empty", speaking(turns=""), refused=True),
    Told("one speaker", SPEAKERS, "turns names one speaker only", speaking(turns="0:00 1"), refused=True),
    Told("one voice together", SPEAKERS, "one is connected. Connect voice_2", speaking(mode="together"), refused=True),
    Told("no picture and no masks", SPEAKERS, "neither masks nor image", speaking(image=None), refused=True),
    Told("a mask is missing", SPEAKERS, "mask_2 is missing", masked(0), refused=True),
    Told("an empty mask", SPEAKERS, "mask_2 is empty", masked(0, None), refused=True),
    Told("the same masks", SPEAKERS, "mask_1 and mask_2 are the same", masked(0, 0), refused=True),
    Told(
        "a mask of another picture",
        SPEAKERS,
        "mask_1 is 64x64 and the picture is",
        masked(0, 32, size=64),
        refused=True,
    ),
    Told(
        "another picture in the sampler",
        SAMPLER,
        "Connect the same picture",
        sampler_with("liveavatar_portrait.png"),
        refused=True,
    ),
    Told("masks that overlap", SPEAKERS, "share 25 % of the smaller one", masked(0, 48)),
    Told("no faces", SPEAKERS, "No face was found in the picture for 2 speakers", without_cascades),
    Told("turns behind the end", SPEAKERS, "line 2 of turns .0:09 2. is behind", speaking(turns="0:00 1\n0:09 2")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_user_reads(server, talking, case):
    prompt = talking()
    # The table names the node's class; here it has a name of its own.
    case.build(prompt)
    check_told(Told(case.kind, case.node, case.reads, refused=case.refused), server, prompt)
