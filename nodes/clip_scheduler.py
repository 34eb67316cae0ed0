"""Clip Scheduler: everything that decides the shape of the work, in one plan."""

from typing import Any

from comfy_api.latest import io

from liveavatar_runtime import duration as time
from liveavatar_runtime.latent_space import TOKEN_SIDE
from liveavatar_runtime.planning import plan_presets
from liveavatar_runtime.planning.advice import advice
from liveavatar_runtime.planning.size_presets import CUSTOM, PRESETS, check_size, size_note
from liveavatar_runtime.sampling.plan import (
    MAX_DISTANCE,
    MAX_SIDE,
    MIN_DISTANCE,
    SIDE_MULTIPLE,
    SINK_POLICIES,
    check_distance,
)
from liveavatar_runtime.sampling.plan_request import AS_MANY_AS_THE_VOICE_NEEDS, ENDS, End, PlanRequest
from liveavatar_runtime.sampling.takes import parse_takes

from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from .search_words import search_words
from .time_inputs import MAX_CLIPS, check_clip_frames, fps_input, infer_frames_input
from .types import CATEGORY, PlanSocket

SIZE_TOOLTIP = (
    "The video's exact size; the picture is cropped to it. Caches of the 14B model in bf16 at 4 steps: 17 GiB for "
    "384x256, 41 for 672x352, 44 for 688x368, 47 for 704x384, 50 for 720x400, as much upright and no more square. "
    "custom: width, height and keep_aspect decide."
)
PRESET_TOOLTIP = (
    "Decides clips, frames of a clip, frame rate, size and steps, also over links; upright and square stay so. check: "
    "10 clips at 384x256 with 3 steps; 60 s and 120 s: 688x368; 180 s delivery: 704x384; long form: 688x368, as long "
    "as the voice. custom: the widgets decide."
)
TAKES_TOOLTIP = (
    "Clips that are made again with another seed: '5-: 1' makes all clips from clip 5 on again, '9: 1' clip 9 alone; "
    "with commas several. A higher number is another take, 0 or nothing the first one. Finished takes stay on the disk "
    "and are replayed when they are chosen again."
)


class ClipScheduler(io.ComfyNode):
    """Plans a video: clips, frames, size, seed, steps. Equal plans and inputs give equal videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_ClipScheduler",
            display_name="Clip Scheduler",
            category=CATEGORY,
            description="Plans the video: its clips, frame rate, size, seed and sampling steps.",
            search_aliases=search_words("LiveAvatar_ClipScheduler"),
            inputs=[
                io.Int.Input(
                    "num_clip",
                    default=AS_MANY_AS_THE_VOICE_NEEDS,
                    min=AS_MANY_AS_THE_VOICE_NEEDS,
                    max=MAX_CLIPS,
                    tooltip="Number of clips, 3 seconds each by default, so 20 are a minute; lowered if the voice "
                    "is shorter. 0: as many as the voice needs.",
                ),
                infer_frames_input("Video frames of a clip, a multiple of 12; 48 is what the model knows."),
                fps_input("Video frames a second; 16 is the default, the model's 1.1 release was tuned at 25."),
                io.Int.Input(
                    "width",
                    default=688,
                    min=SIDE_MULTIPLE,
                    max=MAX_SIDE,
                    step=TOKEN_SIDE,
                    tooltip="Width in pixels; width x height is the area that the picture's aspect is fitted into. "
                    "A larger area takes more memory and time.",
                ),
                io.Int.Input(
                    "height", default=368, min=SIDE_MULTIPLE, max=MAX_SIDE, step=TOKEN_SIDE, tooltip="Height in pixels."
                ),
                io.Int.Input(
                    "seed",
                    default=420,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the first clip's noise; each later clip's is one more.",
                ),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=1,
                    max=100,
                    tooltip="Sampling steps of a block. The model was distilled for 4; 3 steps are faster and take "
                    "about a quarter less cache.",
                ),
                io.Boolean.Input(
                    "keep_aspect",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="On: about the picture's aspect, both sides multiples of 64. Off: exactly width x "
                    "height (multiples of 16). What is left over is cropped.",
                ),
                io.Float.Input(
                    "shift",
                    default=3.0,
                    min=0.1,
                    max=20.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Shift of the noise schedule; the model was distilled with 3.",
                ),
                io.Combo.Input(
                    "sink_policy",
                    options=list(SINK_POLICIES),
                    default="adaptive",
                    optional=True,
                    advanced=True,
                    tooltip="What later clips look back to. adaptive: the first generated frame; reference: the "
                    "picture; reanchor: a newer frame every few clips, so that drift adds up.",
                ),
                io.Int.Input(
                    "relative_distance",
                    default=17,
                    min=0,
                    max=MAX_DISTANCE,
                    optional=True,
                    advanced=True,
                    tooltip=f"Latent frames from a block to the reference picture, {MIN_DISTANCE} to {MAX_DISTANCE}; "
                    "0 draws it anew for every step, from the seed.",
                ),
                io.Int.Input(
                    "window_blocks",
                    default=4,
                    min=1,
                    max=8,
                    optional=True,
                    advanced=True,
                    tooltip="Blocks the model looks back over, its own included; 4 is what it knows. With 2 the "
                    "caches take about half, and the movement is less steady.",
                ),
                io.Int.Input(
                    "segment_clips",
                    default=0,
                    min=0,
                    max=MAX_CLIPS,
                    optional=True,
                    advanced=True,
                    tooltip="Split the video into segments of this many clips, one segment per run; 0: no split.",
                ),
                io.Int.Input(
                    "segment_index",
                    default=0,
                    min=0,
                    max=MAX_CLIPS,
                    optional=True,
                    advanced=True,
                    tooltip="Which segment to make, counted from 0. It continues the one before: bit for "
                    "bit from a state that was kept exactly, if schedule is not batched; else almost. DiT Sampler "
                    "says which.",
                ),
                io.Int.Input(
                    "reanchor_clips",
                    default=10,
                    min=1,
                    max=MAX_CLIPS,
                    optional=True,
                    advanced=True,
                    tooltip="Only for reanchor: clips until a newer frame becomes the reference.",
                ),
                io.Combo.Input(
                    "end",
                    options=list(ENDS),
                    default="clip",
                    optional=True,
                    advanced=True,
                    tooltip="The video ends with a whole clip, or with the frame of the voice's last sample (voice).",
                ),
                io.Combo.Input(
                    "size",
                    options=[CUSTOM, *PRESETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip=SIZE_TOOLTIP,
                ),
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *plan_presets.PRESETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip=PRESET_TOOLTIP,
                    # For the page, which fills the widgets.
                    extra_dict={"presets": {name: one.for_page() for name, one in plan_presets.PRESETS.items()}},
                ),
                io.String.Input(
                    "takes",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=TAKES_TOOLTIP,
                ),
            ],
            outputs=[PlanSocket.Output("plan", display_name="plan", tooltip="The plan for DiT Sampler.")],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, infer_frames: int | None = None) -> bool | str:
        (distance,) = other_widgets(cls, relative_distance=17)
        num_clip, segment_clips, segment_index, preset = other_widgets(
            cls, num_clip=0, segment_clips=0, segment_index=0, preset=CUSTOM
        )
        (takes,) = other_widgets(cls, takes="")
        known = plan_presets.PRESETS.get(preset)
        num_clip = num_clip if known is None else known.num_clip
        segment = None if num_clip is None else (num_clip, segment_clips, segment_index)
        return verdict(
            cls,
            (lambda frames: check_clip_frames(cls, frames), infer_frames if known is None else known.infer_frames),
            # 0 stands for a draw.
            (check_distance, distance or None),
            (lambda n: PlanRequest.of(n[0], segment_clips=n[1], segment_index=n[2]), segment),
            (parse_takes, takes),
        )

    @classmethod
    def execute(
        cls,
        num_clip: int,
        infer_frames: int,
        fps: float,
        width: int,
        height: int,
        seed: int,
        steps: int,
        keep_aspect: bool = True,
        shift: float = 3.0,
        sink_policy: str = "adaptive",
        relative_distance: int = 17,
        window_blocks: int = 4,
        segment_clips: int = 0,
        segment_index: int = 0,
        reanchor_clips: int = 10,
        end: End = "clip",
        size: str = CUSTOM,
        preset: str = CUSTOM,
        takes: str = "",
    ) -> io.NodeOutput:
        asked = {"num_clip": num_clip, "infer_frames": infer_frames, "fps": fps, "width": width, "height": height}
        asked |= {"steps": steps, "size": size}
        used: dict[str, Any] = plan_presets.decided(preset, asked)
        size = check_size(used.pop("size"))
        rate = time.parse_fps(used["fps"])
        numbers = {"seed": seed, "shift": shift, "segment_clips": segment_clips, "segment_index": segment_index}
        check_number(
            cls,
            num_clip=used["num_clip"],
            infer_frames=used["infer_frames"],
            reanchor_clips=reanchor_clips,
            **numbers,
        )
        if size != CUSTOM:
            (used["width"], used["height"]), keep_aspect = PRESETS[size], False
        request = PlanRequest.of(
            end=end,
            **{**used, "fps": rate},
            keep_aspect=keep_aspect,
            seed=seed,
            shift=shift,
            sink_policy=sink_policy,
            relative_distance=relative_distance or None,
            window_blocks=window_blocks,
            segment_clips=segment_clips,
            segment_index=segment_index,
            reanchor_clips=reanchor_clips,
            takes=parse_takes(takes),
        )
        notes = Notes(size_note(size), *advice(request))
        notes.warn(plan_presets.preset_note(preset, asked))
        return notes.output(request)
