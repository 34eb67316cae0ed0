"""Avatar Script and Script Change at work: what is new at which time, as DiT Sampler takes it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from liveavatar_runtime.duration import format_duration, format_time
from liveavatar_runtime.errors import InputError, replaced
from liveavatar_runtime.sampling.script_text import Line, full_prompts

from .audio_input import read_audio
from .notes import Notes
from .prompt_input import read_prompt

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.config import AvatarConfig
    from liveavatar_runtime.sampling.timed_changes import TimedChange

    from .comfy_types import Clip


@dataclass(frozen=True, eq=False, kw_only=True)
class ScriptEntry:
    """at: seconds of the finished video. name: what it is called in messages. conditioning, image: as they come, from
    whatever node; None: as before, like seed and motion."""

    at: Fraction
    name: str
    conditioning: object = None
    image: object = None
    seed: int | None = None
    motion: float | None = None


@dataclass(frozen=True)
class SoundLength:
    """Samples of a voice and their rate."""

    samples: int
    sample_rate: int


@dataclass(frozen=True, eq=False)
class AvatarScript:
    """What travels over LIVEAVATAR_SCRIPT. `sound`: of the voice with its silences, where there are any."""

    entries: tuple[ScriptEntry, ...] = ()
    sound: SoundLength | None = None

    def and_then(self, entry: ScriptEntry) -> "AvatarScript":
        return replace(self, entries=(*self.entries, entry))


@dataclass(frozen=True, eq=False)
class ScriptInputs:
    """What is connected to Avatar Script; None where nothing is. `audio` and `images` as they come."""

    clip: "Clip | None" = None
    audio: object = None
    images: object = None


def check_connected(lines: Sequence[Line], connected: Collection[str]) -> None:
    """Raises InputError for a line that needs an input of Avatar Script which is not among those that are connected."""
    for line in lines:
        if line.prompt and "clip" not in connected:
            raise InputError(
                f"{line.name} has a prompt, and nothing encodes it: connect clip, the text encoder of Load Avatar "
                "Model or of Load CLIP (type wan)."
            )
        if line.silence is not None and "audio" not in connected:
            raise InputError(
                f"{line.name} has a silence, and no voice is connected to put it into: connect the voice to audio, and "
                "the audio of this node to Audio Encode."
            )
        if line.picture is not None and "images" not in connected:
            raise InputError(f"{line.name} has [picture {line.picture}], and no pictures are connected to images.")


def make_script(lines: Sequence[Line], given: ScriptInputs, notes: Notes) -> tuple[AvatarScript, object]:
    """The script of lines that were read, and the voice with the silences in it; without silences it is passed on.

    Raises InputError for a line that needs what is not connected.
    """
    check_connected(lines, [part.name for part in fields(given) if getattr(given, part.name) is not None])
    audio, sound = _with_silences(lines, given.audio, notes)
    encoded = _encoded(full_prompts(lines), given.clip)
    entries = [
        ScriptEntry(
            at=line.at,
            name=line.name,
            conditioning=encoded.get(prompt),
            image=_picture(line, given.images),
            seed=line.seed,
            motion=line.motion,
        )
        for line, prompt in zip(lines, full_prompts(lines), strict=True)
    ]
    return AvatarScript(tuple(entries), sound), audio


def _encoded(prompts: Sequence[str], clip: "Clip | None") -> dict[str, object]:
    """CONDITIONINGs by prompt, as CLIP Text Encode makes them; equal ones once."""
    if clip is None:
        return {}
    return {
        prompt: clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in dict.fromkeys(prompts) if prompt
    }


def _picture(line: Line, images: Any) -> object:
    """The picture of a line, out of a batch."""
    if line.picture is None:
        return None
    images = images if getattr(images, "ndim", 4) == 4 else images[None]
    if line.picture > len(images):
        raise InputError(
            f"{line.name} has [picture {line.picture}], and images holds {len(images)}. Connect a batch with that "
            "many, or use Script Change, which takes a picture of any size."
        )
    return images[line.picture - 1 : line.picture]


def _with_silences(lines: Sequence[Line], audio: object, notes: Notes) -> tuple[object, SoundLength | None]:
    from liveavatar_runtime.audio.silence import Silence, with_silences

    silences = [(line, Silence(line.at, line.silence)) for line in lines if line.silence is not None]
    if not silences:
        return audio, None
    sound = read_audio(audio)
    notes.warn(*sound.changes)
    waveform, late = with_silences(sound.waveform, sound.sample_rate, [silence for _, silence in silences])
    before, after = (Fraction(track.shape[1], sound.sample_rate) for track in (sound.waveform, waveform))
    for line, silence in silences:
        if silence in late:
            notes.warn(
                f"{line.name} ({format_time(line.at)}) is behind the end of the voice ({format_time(after)} with its "
                "silences), so its silence is left out."
            )
    notes.tell(
        f"Voice: {format_duration(before)} and {format_duration(after - before)} of silence make "
        f"{format_duration(after)}"
    )
    told = {"waveform": waveform[None], "sample_rate": sound.sample_rate}
    return told, SoundLength(waveform.shape[1], sound.sample_rate)


def read_changes(script: AvatarScript | None, config: "AvatarConfig", notes: Notes) -> "list[TimedChange]":
    """The entries of a script as the model reads them; what is wrong or without effect is told by the entry's name."""
    entries = () if script is None else script.entries
    return list(_changes(entries, config, notes))


def _changes(entries: Iterable[ScriptEntry], config: "AvatarConfig", notes: Notes) -> "Iterable[TimedChange]":
    from liveavatar_runtime.media.images import read_picture
    from liveavatar_runtime.sampling.prepare import check_text
    from liveavatar_runtime.sampling.timed_changes import Directions, TimedChange

    # The same picture or prompt is one tensor, so that it is compared and encoded once.
    read: dict[int, tuple[Tensor, tuple[str, ...]]] = {}
    for entry in entries:
        with replaced(InputError, partial(_named, entry.name)):
            if entry.conditioning is not None and id(entry.conditioning) not in read:
                prompt = read_prompt(entry.conditioning, config.text_len, "the conditioning")
                check_text(prompt.text, config)
                read[id(entry.conditioning)] = prompt.text, prompt.warnings
            if entry.image is not None and id(entry.image) not in read:
                read[id(entry.image)] = read_picture(entry.image)
        parts = [read[id(part)] if part is not None else (None, ()) for part in (entry.conditioning, entry.image)]
        notes.warn(*(f"{entry.name}: {warning}" for _, warnings in parts for warning in warnings))
        (text, _), (picture, _) = parts
        new = Directions(text=text, picture=picture, seed=entry.seed, motion=entry.motion)
        if new:
            yield TimedChange(entry.at, entry.name, new)


def _named(name: str, error: InputError) -> InputError:
    return InputError(f"{name}: {error}")


def check_sound(script: AvatarScript | None, voice: "Voice", notes: Notes) -> None:
    """Whether a voice is the one that the script's silences were put into."""
    made = None if script is None else script.sound
    if made is None or made == SoundLength(voice.waveform.shape[-1], voice.sample_rate):
        return
    heard, expected = voice.duration, Fraction(made.samples, made.sample_rate)
    notes.warn(
        f"The voice lasts {format_duration(heard)}, with the script's silences {format_duration(expected)}: connect "
        "the audio of Avatar Script to Audio Encode, or its times and those of the voice are not the same."
    )
