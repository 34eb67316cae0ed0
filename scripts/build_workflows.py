"""Writes workflows/*.json and subgraphs/*.json from the descriptions below, with exactly the widgets of today's nodes.

    .venv/bin/python scripts/build_workflows.py      (COMFYUI_PATH names another ComfyUI than .comfyui/ComfyUI)

English texts come from web/templates/en.json; web/templates.js replaces them by those of the user's language when a
template is opened.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_server import ROOT, ComfyServer, make_base
from workflow_canvas import Canvas, Column, Model

WORKFLOWS = ROOT / "workflows"
SUBGRAPHS = ROOT / "subgraphs"
BLUEPRINT = "Talking Avatar"
SEARCH_ALIASES = (
    *(
        "live avatar",
        "digital human",
        "talking avatar",
        "talking head",
        "lip sync",
        "speech to video",
        "portrait animation",
    ),
    *("数字人", "会说话的数字人", "口型", "对口型", "口型同步", "说话", "语音驱动", "音频驱动", "照片说话"),
)
TEXTS = ROOT / "web" / "templates" / "en.json"
SCRIPT = """0:00 A friendly person talks to the camera in front of a blue wall.
0:02 [silence 1]
0:03 A friendly person talks to the camera in front of a red wall."""
LATER_START, LATER = "0:05.5", "A friendly person talks to the camera in front of a green wall."
"""What the template of scripts says, and what its second node adds."""
SIZE = "688x368"
"""What the 14B templates begin with."""
PORTRAIT, VOICE = "liveavatar_portrait.png", "liveavatar_voice.wav"
TWO_PEOPLE, CONVERSATION = "liveavatar_two_people.png", "liveavatar_conversation.wav"
TURNS = """0:00 1
0:03.7 2
0:05.7 1"""
"""As `demo/speak.py --conversation` prints them."""
DEMO = {"model": "liveavatar-demo/"}
PICTURE, LATENTS, VIDEO = 260, 330, 430
"""Room in pixels below the widgets for a picture, for notes and a preview, for notes and a video."""
TOLD = 165
"""Room for notes: several long warnings fit, so that no node grows over the one below."""
REPORT = 640
"""Room for a report and its picture."""

HUGGING_FACE = "https://huggingface.co"
WAN_22 = f"{HUGGING_FACE}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
WAN_21 = f"{HUGGING_FACE}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
LIVE_AVATAR = f"{HUGGING_FACE}/Quark-Vision/Live-Avatar/resolve/main"


def file(base: str, folder: str, name: str) -> Model:
    """A file of a repository whose folders have the names of ComfyUI's."""
    return Model(name, f"{base}/{folder}/{name}", folder)


TRANSFORMER = file(WAN_22, "diffusion_models", "wan2.2_s2v_14B_fp8_scaled.safetensors")
LORA = Model("liveavatar.safetensors", f"{LIVE_AVATAR}/liveavatar.safetensors", "loras")
TEXT_ENCODER = file(WAN_21, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
VAE = file(WAN_22, "vae", "wan_2.1_vae.safetensors")
AUDIO_ENCODER = file(WAN_22, "audio_encoders", "wav2vec2_large_english_fp16.safetensors")
UPSCALER = Model(
    "RealESRGAN_x4plus.safetensors",
    f"{HUGGING_FACE}/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
    "upscale_models",
)
BACKGROUND = file(f"{HUGGING_FACE}/Comfy-Org/BiRefNet/resolve/main", "background_removal", "birefnet.safetensors")
FRAMES = file(
    f"{HUGGING_FACE}/Comfy-Org/frame_interpolation/resolve/main", "frame_interpolation", "rife_v4.26.safetensors"
)

Texts = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """An output of a node."""

    node: int
    output: str


@dataclass(frozen=True)
class Inputs:
    """What every template begins with: the model's parts, the prompt, the picture, the voice."""

    model: Source
    vae: Source
    prompt: Source
    picture: Source
    sound: Source
    voice: Source


class Template:
    """A canvas with the columns and parts that the templates share."""

    def __init__(self, name: str, object_info: Mapping[str, Any], texts: Texts) -> None:
        self.name, self.canvas, self._texts = name, Canvas(object_info), texts
        self.titles = texts["titles"]
        self.has_steps = False

    def column(self, number: int, width: float = 340, top: float = 60) -> Column:
        return self.canvas.column(40 + 390 * number, width, top)

    def link(self, source: Source, target: int, target_input: str) -> None:
        self.canvas.link(source.node, source.output, target, target_input)

    def note(self, column: Column, height: float) -> None:
        column.note(self._texts["notes"][self.name], self.titles["about"], height)

    def demo_inputs(self, **loader: Any) -> tuple[Inputs, Column]:
        """The demo's bundle, which brings all parts; and the second column, below the voice's encoder."""
        left, middle = self.column(0), self.column(1)
        model = left.node("LiveAvatar_LoadAvatarModel", room=TOLD, **{**DEMO, **loader})
        picture, sound = self.media(left)
        parts = Inputs(
            Source(model, "model"),
            Source(model, "vae"),
            self.prompt(middle, Source(model, "clip")),
            picture,
            sound,
            self.voice(middle, Source(model, "audio_encoder"), sound),
        )
        return parts, middle

    def real_inputs(self) -> tuple[Inputs, Column]:
        """The 14B model's files, each with its own loader, in a group; and the third column, below the voice."""
        self.has_steps = True
        files, left, middle = self.column(0), self.column(1), self.column(2)
        model = files.node(
            "LiveAvatar_LoadAvatarModel",
            room=TOLD,
            models=[TRANSFORMER, LORA],
            model=TRANSFORMER.name,
            lora=LORA.name,
        )
        clip = files.node("CLIPLoader", models=[TEXT_ENCODER], clip_name=TEXT_ENCODER.name, type="wan")
        vae = files.node("VAELoader", models=[VAE], vae_name=VAE.name)
        ears = files.node("AudioEncoderLoader", models=[AUDIO_ENCODER], audio_encoder_name=AUDIO_ENCODER.name)
        self.frame("step_files", files)
        picture, sound = self.media(left)
        prompt = self.prompt(left, Source(clip, "CLIP"))
        self.frame("step_inputs", left)
        voice = self.voice(middle, Source(ears, "AUDIO_ENCODER"), sound)
        return Inputs(Source(model, "model"), Source(vae, "VAE"), prompt, picture, sound, voice), middle

    def frame(self, title: str, column: Column, last: Column | None = None) -> None:
        """A group around all nodes of a column, or of all from it to `last`."""
        last = last or column
        size = last.left + last.width - column.left + 30, max(column.bottom, last.bottom) - 25
        self.canvas.group(self.titles[title], (column.left - 15, -15), size)

    def sampler(self, column: Column, parts: Inputs, plan: int, title: str = "") -> Source:
        node = column.node("LiveAvatar_DiTSampler", room=LATENTS, title=title)
        for source, name in (
            (parts.model, "model"),
            (parts.prompt, "positive"),
            (parts.vae, "vae"),
            (parts.picture, "image"),
            (parts.voice, "avatar_audio"),
            (Source(plan, "plan"), "plan"),
        ):
            self.link(source, node, name)
        return Source(node, "latents")

    def decoder(self, column: Column, parts: Inputs, latents: Source, prefix: str) -> int:
        node = column.node("LiveAvatar_OnlineVAEDecode", room=VIDEO, filename_prefix=f"LiveAvatar/{prefix}")
        self.link(latents, node, "latents")
        self.link(parts.vae, node, "vae")
        return node

    def last_frame(self, column: Column, decoder: int) -> None:
        """Shows the picture that a next video could begin with."""
        node = column.node("PreviewImage", room=PICTURE, title=self.titles["last_frame"])
        self.canvas.link(decoder, "last_frame", node, "images")

    def workflow(self) -> dict[str, Any]:
        return self.canvas.workflow(self.name, {"liveavatar_template": self.name})

    def media(self, column: Column, image: str = PORTRAIT, audio: str = VOICE) -> tuple[Source, Source]:
        picture = column.node("LoadImage", room=PICTURE, title=self.titles["picture"], image=image)
        sound = column.node("LoadAudio", room=40, title=self.titles["voice"], audio=audio)
        return Source(picture, "IMAGE"), Source(sound, "AUDIO")

    def prompt(self, column: Column, clip: Source) -> Source:
        node = column.node("CLIPTextEncode", room=100, title=self.titles["prompt"], text=self._texts["prompt"])
        self.link(clip, node, "clip")
        return Source(node, "CONDITIONING")

    def voice(self, column: Column, encoder: Source, sound: Source) -> Source:
        node = column.node("LiveAvatar_AudioEncode", room=TOLD)
        self.link(encoder, node, "audio_encoder")
        self.link(sound, node, "audio")
        return Source(node, "avatar_audio")


def one_video(
    template: Template, parts: Inputs, middle: Column, first: int, prefix: str, **plan: Any
) -> tuple[int, int]:
    """Plan, sampler and decoder of one video in the columns from `first` on, with its last frame and the note; returns
    the sampler and the decoder."""
    scheduler = middle.node("LiveAvatar_ClipScheduler", room=TOLD, **plan)
    sampling, decoding = template.column(first), template.column(first + 1, 360)
    latents = template.sampler(sampling, parts, scheduler)
    decoder = template.decoder(decoding, parts, latents, prefix)
    last = template.column(first + 2, 520)
    last.left += 20
    template.last_frame(last, decoder)
    template.note(last, 620)
    if template.has_steps:
        template.frame("step_plan", middle)
        template.frame("step_video", sampling, decoding)
    return latents.node, decoder


def short_clip(template: Template) -> None:
    parts, middle = template.demo_inputs()
    one_video(template, parts, middle, 2, "avatar", width=64, height=64)


def long_video_single(template: Template) -> None:
    parts, middle = template.demo_inputs()
    one_video(template, parts, middle, 2, "long", width=64, height=64)


def multi_gpu(template: Template) -> None:
    parts, middle = template.demo_inputs(executor="layer_pipeline", devices="cpu,cpu")
    one_video(template, parts, middle, 2, "multi_gpu", width=64, height=64)


def segments(template: Template, parts: Inputs, middle: Column, first: int, **plan: Any) -> tuple[Column, int]:
    """Three segments of one video, and their join: its column and node."""
    clips = middle.node("PrimitiveInt", title=template.titles["segment_clips"], value=1)
    seed = middle.node("PrimitiveInt", title=template.titles["seed"], value=420)
    template.note(middle, 520)
    columns = [template.column(first + place, width) for place, width in enumerate((340, 340, 360))]
    joining = template.column(first + 3, 380)
    join = joining.node("LiveAvatar_JoinSegments", room=VIDEO, parts=4, filename_prefix="LiveAvatar/joined")
    for index in range(3):
        title = template.titles[f"segment_{index + 1}"]
        scheduler = columns[0].node("LiveAvatar_ClipScheduler", room=TOLD, title=title, segment_index=index, **plan)
        template.link(Source(clips, "INT"), scheduler, "segment_clips")
        template.link(Source(seed, "INT"), scheduler, "seed")
        latents = template.sampler(columns[1], parts, scheduler)
        decoder = template.decoder(columns[2], parts, latents, f"segment_{index + 1}")
        template.link(Source(decoder, "video"), join, f"parts.part_{index + 1}")
        lowest = max(column.bottom for column in columns)
        for column in columns:
            column.bottom = lowest
    template.link(parts.sound, join, "audio")
    if template.has_steps:
        template.frame("step_plan", middle)
        template.frame("step_video", columns[0], joining)
    return joining, join


def long_video_segments(template: Template) -> None:
    parts, middle = template.demo_inputs()
    joining, join = segments(template, parts, middle, 2, width=64, height=64)
    judge = joining.node("LiveAvatar_ClipJudge", room=REPORT)
    template.link(Source(join, "video"), judge, "video")
    template.link(parts.picture, judge, "image")


def latents_and_spools(template: Template) -> None:
    parts, middle = template.demo_inputs()
    calc = middle.node("LiveAvatar_DurationCalc", room=TOLD, solve_for="num_clip", duration=3.0)
    scheduler = middle.node("LiveAvatar_ClipScheduler", room=TOLD, width=64, height=64)
    template.link(Source(calc, "num_clip"), scheduler, "num_clip")
    sampling, collecting, showing = template.column(2), template.column(3), template.column(4)
    latents = template.sampler(sampling, parts, scheduler)
    template.note(sampling, 400)
    collected = collecting.node("LiveAvatar_CollectLatents", room=TOLD)
    template.link(latents, collected, "latents")
    decoded = collecting.node("VAEDecode")
    template.link(Source(collected, "LATENT"), decoded, "samples")
    template.link(parts.vae, decoded, "vae")
    shown = showing.node("PreviewImage", room=VIDEO)
    template.link(Source(decoded, "IMAGE"), shown, "images")
    collecting.node("LiveAvatar_Spools", room=TOLD + 35)


def avatar_14b(template: Template) -> None:
    parts, middle = template.real_inputs()
    one_video(template, parts, middle, 3, "avatar", num_clip=2, size=SIZE)


def avatar_14b_long(template: Template) -> None:
    parts, middle = template.real_inputs()
    one_video(template, parts, middle, 3, "long", size=SIZE)


def avatar_14b_segments(template: Template) -> None:
    parts, middle = template.real_inputs()
    segments(template, parts, middle, 3, size=SIZE)


def direct_the_talk(template: Template) -> None:
    """Three prompts and a silence by time; the last prompt comes from a node of its own."""
    left, middle, directing = template.column(0), template.column(1), template.column(2)
    model = left.node("LiveAvatar_LoadAvatarModel", room=TOLD, **DEMO)
    clip = Source(model, "clip")
    picture, sound = template.media(left)
    prompt = template.prompt(middle, clip)
    script = middle.node("LiveAvatar_AvatarScript", room=TOLD + 100, script=SCRIPT)
    template.link(clip, script, "clip")
    template.link(sound, script, "audio")
    voice = template.voice(middle, Source(model, "audio_encoder"), Source(script, "audio"))
    later = directing.node("CLIPTextEncode", room=100, title=template.titles["later"], text=LATER)
    template.link(clip, later, "clip")
    change = directing.node("LiveAvatar_ScriptChange", start=LATER_START)
    template.link(Source(later, "CONDITIONING"), change, "conditioning")
    template.link(Source(script, "script"), change, "script")
    parts = Inputs(Source(model, "model"), Source(model, "vae"), prompt, picture, sound, voice)
    plan = {"width": 64, "height": 64, "sink_policy": "reference", "end": "voice"}
    sampler, _ = one_video(template, parts, directing, 3, "directed", **plan)
    template.link(Source(change, "script"), sampler, "script")


def two_speakers(template: Template) -> None:
    """A conversation from one recording; the areas come from the faces in the picture."""
    left, middle, speaking = template.column(0), template.column(1), template.column(2)
    model = left.node("LiveAvatar_LoadAvatarModel", room=TOLD, **DEMO)
    picture, sound = template.media(left, TWO_PEOPLE, CONVERSATION)
    prompt = template.prompt(middle, Source(model, "clip"))
    voice = template.voice(middle, Source(model, "audio_encoder"), sound)
    speakers = speaking.node("LiveAvatar_Speakers", room=PICTURE + TOLD, mode="one recording", turns=TURNS)
    template.link(voice, speakers, "voice_1")
    template.link(picture, speakers, "image")
    heard = Source(speakers, "avatar_audio")
    parts = Inputs(Source(model, "model"), Source(model, "vae"), prompt, picture, sound, heard)
    one_video(template, parts, middle, 3, "two_speakers", width=128, height=64, end="voice")


def finish_the_video(template: Template) -> None:
    """The demo with all four steps behind the decoding, each with the model that it needs."""
    parts, middle = template.demo_inputs()
    _, decoder = one_video(template, parts, middle, 4, "finished", width=64, height=64)
    loading, steps = template.column(2), template.column(3)
    loaders = (
        loading.node("UpscaleModelLoader", models=[UPSCALER], model_name=UPSCALER.name),
        loading.node("LoadBackgroundRemovalModel", models=[BACKGROUND], bg_removal_name=BACKGROUND.name),
        loading.node("FrameInterpolationModelLoader", models=[FRAMES], model_name=FRAMES.name),
    )
    colours = steps.node("LiveAvatar_FinishColours", room=TOLD)
    template.link(parts.picture, colours, "image")
    background = steps.node("LiveAvatar_FinishBackground", room=TOLD, behind="colour")
    upscale = steps.node("LiveAvatar_FinishUpscale", room=40)
    frames = steps.node("LiveAvatar_FinishFrameRate", room=40)
    template.link(Source(loaders[1], "bg_model"), background, "background_model")
    template.link(Source(loaders[0], "UPSCALE_MODEL"), upscale, "upscale_model")
    template.link(Source(loaders[2], "INTERP_MODEL"), frames, "interp_model")
    chain = colours, background, upscale, frames, decoder
    for source, target in zip(chain, chain[1:], strict=False):
        template.link(Source(source, "finishing"), target, "finishing")


def live_talk(template: Template) -> None:
    """The demo, whose voice comes from the live page; the video goes on until it is stopped."""
    left, middle = template.column(0), template.column(1)
    model = left.node("LiveAvatar_LoadAvatarModel", room=TOLD, **DEMO)
    picture = Source(left.node("LoadImage", room=PICTURE, title=template.titles["picture"], image=PORTRAIT), "IMAGE")
    voice = middle.node("LiveAvatar_LiveVoice", room=TOLD)
    template.link(Source(model, "audio_encoder"), voice, "audio_encoder")
    template.link(Source(model, "clip"), voice, "clip")
    prompt = template.prompt(middle, Source(model, "clip"))
    plan = middle.node("LiveAvatar_ClipScheduler", room=TOLD, num_clip=0, width=64, height=64, fps=25.0)
    heard = Source(voice, "avatar_audio")
    parts = Inputs(Source(model, "model"), Source(model, "vae"), prompt, picture, heard, heard)
    latents = template.sampler(template.column(2), parts, plan)
    showing, last = template.column(3, 420), template.column(4, 520)
    last.left += 80
    out = showing.node("LiveAvatar_LiveOut", room=VIDEO)
    template.link(latents, out, "latents")
    template.link(parts.vae, out, "vae")
    report = last.node("PreviewAny", room=PICTURE)
    template.link(Source(out, "report"), report, "source")
    template.note(last, 560)


def check_my_plan(template: Template) -> None:
    """The same plan on this machine and on four cards; nothing is loaded."""
    left, here, there = template.column(0), template.column(1, 560), template.column(3, 560)
    there.left -= 170
    scheduler = left.node("LiveAvatar_ClipScheduler", room=TOLD, size=SIZE)
    sound = Source(left.node("LoadAudio", room=40, title=template.titles["voice"], audio=VOICE), "AUDIO")
    asked = (here, "this machine", "14B model in fp8"), (there, "4x RTX 4090", "14B model in bf16")
    for column, machine, model in asked:
        check = column.node("LiveAvatar_PlanCheck", room=REPORT, machine=machine, model_file=model)
        template.link(Source(scheduler, "plan"), check, "plan")
        template.link(sound, check, "audio")
    last = template.column(4, 420)
    last.left += 50
    template.note(last, 560)


def check_my_hardware(template: Template) -> None:
    """The 14B model, its VAE, the probe and its report."""
    files, middle = template.column(0), template.column(1)
    model = files.node(
        "LiveAvatar_LoadAvatarModel", room=TOLD, models=[TRANSFORMER, LORA], model=TRANSFORMER.name, lora=LORA.name
    )
    vae = files.node("VAELoader", models=[VAE], vae_name=VAE.name)
    probe = middle.node("LiveAvatar_HardwareProbe", room=LATENTS)
    template.link(Source(model, "model"), probe, "model")
    template.link(Source(vae, "VAE"), probe, "vae")
    shown = template.column(2, 520).node("PreviewAny", room=VIDEO)
    template.link(Source(probe, "report"), shown, "source")
    last = template.column(3, 520)
    last.left += 180
    template.note(last, 520)


def talking_avatar(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The 14B model's chain as one node: picture, voice, prompt and size in, video and last frame out."""
    canvas = Canvas(object_info)
    files, middle, sampling, decoding = (canvas.column(390 * number) for number in range(4))
    model = files.node(
        "LiveAvatar_LoadAvatarModel", room=TOLD, models=[TRANSFORMER, LORA], model=TRANSFORMER.name, lora=LORA.name
    )
    clip = files.node("CLIPLoader", models=[TEXT_ENCODER], clip_name=TEXT_ENCODER.name, type="wan")
    vae = files.node("VAELoader", models=[VAE], vae_name=VAE.name)
    ears = files.node("AudioEncoderLoader", models=[AUDIO_ENCODER], audio_encoder_name=AUDIO_ENCODER.name)
    prompt = middle.node("CLIPTextEncode", room=100, text=english()["prompt"])
    voice = middle.node("LiveAvatar_AudioEncode", room=TOLD)
    plan = middle.node("LiveAvatar_ClipScheduler", room=TOLD, size=SIZE)
    sampler = sampling.node("LiveAvatar_DiTSampler", room=LATENTS)
    decoder = decoding.node("LiveAvatar_OnlineVAEDecode", room=VIDEO)
    for source, output, target, name in (
        (clip, "CLIP", prompt, "clip"),
        (ears, "AUDIO_ENCODER", voice, "audio_encoder"),
        (model, "model", sampler, "model"),
        (prompt, "CONDITIONING", sampler, "positive"),
        (vae, "VAE", sampler, "vae"),
        (voice, "avatar_audio", sampler, "avatar_audio"),
        (plan, "plan", sampler, "plan"),
        (sampler, "latents", decoder, "latents"),
        (vae, "VAE", decoder, "vae"),
    ):
        canvas.link(source, output, target, name)
    inputs = {
        "picture": (sampler, "image"),
        "voice": (voice, "audio"),
        "prompt": (prompt, "text"),
        "size": (plan, "size"),
    }
    outputs = {"video": (decoder, "video"), "last_frame": (decoder, "last_frame")}
    about = "A picture, a voice and a prompt to a talking video, with the 14B model. The video is as long as the voice."
    return canvas.blueprint(BLUEPRINT, about, inputs, outputs, SEARCH_ALIASES)


TEMPLATES: tuple[Callable[[Template], None], ...] = (
    short_clip,
    long_video_single,
    long_video_segments,
    multi_gpu,
    latents_and_spools,
    direct_the_talk,
    two_speakers,
    finish_the_video,
    live_talk,
    avatar_14b,
    avatar_14b_long,
    avatar_14b_segments,
    check_my_plan,
    check_my_hardware,
)


def english() -> Texts:
    """Titles, notes and the prompt of the templates in English."""
    return json.loads(TEXTS.read_text(encoding="utf-8"))


def build(object_info: Mapping[str, Any]) -> dict[Path, str]:
    """All files that this script writes, and what stands in them."""
    made = {SUBGRAPHS / f"{BLUEPRINT}.json": text_of(talking_avatar(object_info))}
    for describe in TEMPLATES:
        template = Template(describe.__name__, object_info, english())
        describe(template)
        made[WORKFLOWS / f"{template.name}.json"] = text_of(template.workflow())
    return made


def text_of(workflow: Mapping[str, Any]) -> str:
    """What stands in a file."""
    return json.dumps(workflow, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    with tempfile.TemporaryDirectory() as folder, ComfyServer(comfyui, make_base(Path(folder))) as server:
        made = build(server.client.object_info())
    SUBGRAPHS.mkdir(exist_ok=True)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
