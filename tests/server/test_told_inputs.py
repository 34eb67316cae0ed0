"""What users read about prompts, voices and pictures that are not as the model takes them."""

import re

import pytest
from told_cases import SMALL, Told, check_told
from video_facts import probe

SAMPLER, VOICE = "LiveAvatar_DiTSampler", "LiveAvatar_AudioEncode"


def text(words: str):
    return lambda prompt: prompt.set("CLIPTextEncode", text=words)


def prompt_of(kind: str):
    """The prompt of one of `odd_prompts`."""

    def build(prompt) -> None:
        prompt.add("odd", "OddPrompt", conditioning=[prompt.id("CLIPTextEncode"), 0], kind=kind)
        prompt.set(SAMPLER, positive=["odd", 0])

    return build


def core_node(name: str, **inputs):
    """The prompt through a conditioning node of ComfyUI, as the input of that name."""

    def build(prompt) -> None:
        prompt.add("changed", name, conditioning=[prompt.id("CLIPTextEncode"), 0], **inputs)
        prompt.set(SAMPLER, positive=["changed", 0])

    return build


def nothing_loaded(build):
    """With a VAE that fails when it is touched: the refusal comes before."""

    def guarded(prompt) -> None:
        build(prompt)
        prompt.add("untouched", "UntouchedVAE")
        prompt.set(SAMPLER, vae=["untouched", 0])

    return guarded


def other_voice(prompt) -> None:
    prompt.add("odd", "OddVoice", voice=[prompt.id(VOICE), 0])
    prompt.set(SAMPLER, avatar_audio=["odd", 0])


def audio(kind: str):
    def build(prompt) -> None:
        prompt.add("odd", "OddAudio", kind=kind)
        prompt.set(VOICE, audio=["odd", 0])

    return build


def picture(kind: str):
    def build(prompt) -> None:
        prompt.add("odd", "OddImage", kind=kind)
        prompt.set(SAMPLER, image=["odd", 0])

    return build


RANGE = core_node("ConditioningSetTimestepRange", start=0.2, end=0.8)
AREA = core_node("ConditioningSetArea", width=64, height=64, x=0, y=0, strength=0.5)

PROMPTS = [
    Told("100,000 characters", SAMPLER, r"has \d{5} tokens and the model reads 512", text("A person talks. " * 6250)),
    Told("25,000 tokens of another text encoder", SAMPLER, r"has 25000 tokens and the model reads", prompt_of("many")),
    Told("a batch of prompts", SAMPLER, "a batch of 2 texts; .*the first is used", prompt_of("batch")),
    Told("a timestep range", SAMPLER, r"Without effect.*timestep range 0\.2 to 0\.8 \(every step", RANGE),
    Told("an area with a strength", SAMPLER, r"Without effect.*: the area and the strength 0\.5", AREA),
    Told("settings of nodes we do not know", SAMPLER, "mask, the encoded voice.* and their_setting", prompt_of("keys")),
    Told("an empty prompt", SAMPLER, "prompt is empty.*CLIP Text Encode", core_node("ConditioningZeroOut")),
    *(
        Told(kind, SAMPLER, reads, nothing_loaded(prompt_of(odd)), refused=True)
        for kind, odd, reads in (
            ("a prompt that is not numbers", "nan", r"NaN or infinite.*bf16 or fp8"),
            ("token numbers instead of a prompt", "ids", r"int64 \[1, 512\] instead of an encoded prompt"),
            ("the prompt of another text encoder", "wide", r"encoded to \(512, 768\), this model reads \[tokens, 64\]"),
            ("no prompt", "none", "holds no prompt. Connect CLIP Text Encode"),
        )
    ),
    Told(
        "the voice of another audio encoder", SAMPLER, r"encoded to 3 layers", nothing_loaded(other_voice), refused=True
    ),
]

VOICES = [
    *(
        Told(f"a voice: {odd}", VOICE, reads, audio(odd), refused=True)
        for odd, reads in (
            ("none", "this video has no sound: connect a voice"),
            ("none inside", "this video has no sound: connect a voice"),
            ("no samples", r"no samples.*video without sound.*Connect a voice"),
            ("no rate", "holds waveform and no sample_rate"),
            ("tensor", "is a Tensor; it must be an AUDIO"),
            ("broken rate", r"sample rate is 16000\.5; it must be a whole number"),
            (
                "lazy, no sound",
                r"could not be loaded \(Exception: Output file does not contain any stream\).*has no sound",
            ),
        )
    ),
    Told("a batch of voices", VOICE, "a batch of 3 tracks; the first one is used", audio("batch")),
    Told("a surround track", VOICE, r"6 channels; they were mixed to stereo as 5\.1", audio("surround")),
    Told("ten channels", VOICE, "10 channels; they were mixed to mono", audio("many channels")),
    Told("16 bit numbers as floats", VOICE, "reach 16384? where 1 is full scale: .*16 bit", audio("16 bit")),
    Told("a voice that is too loud", VOICE, r"too loud: its samples reach 4\.0", audio("too loud")),
]

PICTURES = [
    *(
        Told(f"a picture: {odd}", SAMPLER, reads, nothing_loaded(picture(odd)), refused=True)
        for odd, reads in (
            ("none", "a NoneType; it must be an IMAGE"),
            ("channels first", r"shape \[1, 3, 512, 512\]; it must be \[batch, height, width, channels\]"),
            ("nan", "NaN or infinity"),
        )
    ),
    Told("a picture of 0 to 255", SAMPLER, r"reach \d+: they were read as 0 to 255", picture("float 255")),
    Told("a picture of -1 to 1", SAMPLER, r"go from -0\.\d+ to 0\.\d+; below 0 is cut", picture("-1 to 1")),
    Told("several faces", SAMPLER, "4 faces were found in the picture.*Crop the picture to one", picture("four faces")),
    Told("no face", SAMPLER, "No face was found in the picture.*ignore this if there is one", picture("no face")),
    Told("a transparent picture", SAMPLER, "transparent in parts; white is laid behind", picture("glass")),
]


def up_to(prompt, node: str):
    """The prompt without what comes after a node: nothing is sampled, the node tells all that these tests read.

    The voice is as long as the clip, so there is nothing to say of it.
    """
    del prompt.nodes[prompt.id("LiveAvatar_OnlineVAEDecode")]
    prompt.add("silence", "EmptyAudio", duration=0.75, sample_rate=16000, channels=1)
    prompt.set(VOICE, audio=["silence", 0])
    prompt.add("end", "OddEnd", value=[prompt.id(node), 0])
    return prompt


@pytest.mark.parametrize("case", [*PROMPTS, *VOICES, *PICTURES], ids=str)
def test_told(server, short_clip, case):
    check_told(case, server, up_to(short_clip(**SMALL), case.node))


@pytest.mark.parametrize(
    ("build", "node"),
    [
        *((audio(kind), VOICE) for kind in ("numpy", "float rate", "tensor rate", "lazy")),
        (picture("no batch"), SAMPLER),
        (prompt_of("neutral"), SAMPLER),
    ],
)
def test_what_needs_no_words(server, short_clip, build, node):
    prompt = up_to(short_clip(**SMALL), node)
    build(prompt)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    notes = result.notes(prompt.id(node))
    about = re.compile("prompt|sound( is|'s| has)|picture")
    assert notes and not any(about.search(line) for line in notes if line.startswith("⚠"))


def test_a_surround_voice_and_a_picture_of_integers_make_a_file(server, short_clip):
    prompt = short_clip(**SMALL)
    audio("surround")(prompt)
    prompt.add("odd picture", "OddImage", kind="numpy int")
    prompt.set(SAMPLER, image=["odd picture", 0])
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    saved = result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]["images"][0]
    facts = probe(server.output / saved["subfolder"] / saved["filename"])
    assert facts.frames == 12 and facts.audio_codec == "aac"


def test_the_templates_run_when_the_demo_files_are_not_in_the_input_folder(server, short_clip):
    """As with an input folder that nobody may write to."""
    prompt = up_to(short_clip(**SMALL), SAMPLER)
    prompt.set(VOICE, audio=[prompt.id("LoadAudio"), 0])
    names = [server.input / "liveavatar_portrait.png", server.input / "liveavatar_voice.wav"]
    kept = {path: path.read_bytes() for path in names}
    for path in names:
        path.unlink()
    try:
        server.client.run(prompt.nodes).raise_for_error()
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
