"""DiT Sampler: picture, voice, prompt and plan to a lazy stream of latent blocks."""

from typing import TYPE_CHECKING, get_args

from comfy_api.latest import io

from liveavatar_runtime.dit.backends import BACKENDS
from liveavatar_runtime.planning.memory import CacheChoice, KVCacheChoice, KVTypeChoice, ScheduleChoice
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest
from liveavatar_runtime.sampling.script import HIGHEST_STEADY, LOWEST_STEADY
from liveavatar_runtime.spool.states import StateType

from ..comfy_bridge.attention import COMFYUI_ATTENTION
from ..comfy_bridge.avatar import AvatarModel
from ..comfy_bridge.avatar_script import AvatarScript
from ..comfy_bridge.comfy_types import Vae
from ..comfy_bridge.driving_video import PoseEnd, PoseInput
from ..comfy_bridge.execution import SamplerInputs, SamplerSettings, prepare_latents
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.spool_folder import KEEP, SPOOL_CHOICES, SpoolChoice
from ..comfy_bridge.validation import check_number, verdict
from .search_words import search_words
from .types import CATEGORY, AudioSocket, LatentsSocket, ModelSocket, PlanSocket, ScriptSocket

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice


class DiTSampler(io.ComfyNode):
    """Prepares sampling. Nothing is sampled here: the blocks are made when a later node asks for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_DiTSampler",
            display_name="DiT Sampler",
            category=CATEGORY,
            description="Samples the avatar block by block while Online VAE Decode takes the blocks; shows previews.",
            search_aliases=search_words("LiveAvatar_DiTSampler"),
            inputs=[
                ModelSocket.Input("model", tooltip="From Load Avatar Model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The encoded prompt, from CLIP Text Encode. There is no negative one: the model works "
                    "without CFG.",
                ),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE; encodes the picture."),
                io.Image.Input(
                    "image",
                    tooltip="The picture of the avatar: one face, looking at the camera, in good light. The video "
                    "begins with it. The first one of a batch is used.",
                ),
                AudioSocket.Input(
                    "avatar_audio", tooltip="The voice, from Audio Encode; of several people, from Speakers."
                ),
                PlanSocket.Input("plan", tooltip="From Clip Scheduler."),
                io.Combo.Input(
                    "kv_cache",
                    options=list(get_args(KVCacheChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Where the key/value caches are kept. device: on the GPU, fastest; ram: in RAM, "
                    "streamed to the GPU layer by layer; auto: what moves the fewest bytes.",
                ),
                io.Combo.Input(
                    "kv_dtype",
                    options=list(get_args(KVTypeChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Number format of the caches; auto takes fp8 where the model's own does not fit into this "
                    "machine, and says so. fp8 halves them and changes the result a little, so all clips are sampled "
                    "anew.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(get_args(ScheduleChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="sequential: one step after the other; batched: as many blocks as there are "
                    "steps, each at another step, in one batch, so that weights without room on the GPU are moved "
                    "once a block. auto chooses.",
                ),
                io.Combo.Input(
                    "attention",
                    options=[COMFYUI_ATTENTION, *BACKENDS],
                    default=COMFYUI_ATTENTION,
                    optional=True,
                    advanced=True,
                    tooltip="Attention kernel; comfyui is what ComfyUI was started with. sage and flash need their "
                    "packages installed. Changing to or from sage samples all clips anew.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Run the layers through torch.compile: the first block takes minutes longer, later ones "
                    "are faster.",
                ),
                io.Combo.Input(
                    "spool",
                    options=list(SPOOL_CHOICES),
                    default=KEEP,
                    optional=True,
                    advanced=True,
                    tooltip="Keep finished clips on the disk, so that a video can be resumed after an interruption "
                    "or a crash.",
                ),
                io.Float.Input(
                    "spool_budget",
                    default=20.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for clips and states of all videos; the least recently used are removed first. 0: "
                    "no limit.",
                ),
                io.Float.Input(
                    "state_budget",
                    default=8.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for the saved state of a video (14B, 688x368: 27, in fp8 14). Without one, the "
                    "last one or two clips are sampled again as a warm-up.",
                ),
                io.Combo.Input(
                    "state_dtype",
                    options=list(get_args(StateType)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Number format of saved states; fp8 halves them, resuming is then slightly inexact. "
                    "auto: exact if it fits.",
                ),
                ScriptSocket.Input(
                    "script",
                    optional=True,
                    tooltip="What changes in the course of the video, from Avatar Script or Script Change: prompt, "
                    "picture, seed, motion strength. Without one, nothing does.",
                ),
                io.MultiType.Input(
                    "pose_video",
                    [io.Video, io.Image],
                    optional=True,
                    tooltip="A driving video of pose skeletons (DWPose) that moves the avatar, as Wan2.2-S2V takes it; "
                    "an IMAGE batch is one picture for each frame. Without one, the voice alone does.",
                ),
                io.Combo.Input(
                    "pose_end",
                    options=list(get_args(PoseEnd)),
                    default="hold",
                    optional=True,
                    advanced=True,
                    tooltip="After the end of pose_video. hold: its last picture stays; loop: it begins again.",
                ),
                io.Float.Input(
                    "motion_strength",
                    default=1.0,
                    min=LOWEST_STEADY,
                    max=HIGHEST_STEADY,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How far the voice moves mouth and head: below 1 calmer, above 1 livelier; 1 is what the "
                    "model learned. A script's motion strength replaces it from its time on.",
                ),
            ],
            outputs=[
                LatentsSocket.Output(
                    "latents", display_name="latents", tooltip="Latent blocks, made on demand, for Online VAE Decode."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, state_budget: float | None = None) -> bool | str:
        return verdict(cls, (lambda budget: check_number(cls, state_budget=budget), state_budget))

    @classmethod
    def execute(
        cls,
        model: AvatarModel,
        positive: object,
        vae: Vae | None,
        image: object,
        avatar_audio: "Voice",
        plan: PlanRequest | ClipPlan,
        kv_cache: KVCacheChoice = "auto",
        kv_dtype: KVTypeChoice = "auto",
        schedule: ScheduleChoice = "auto",
        attention: str = COMFYUI_ATTENTION,
        compile: bool = False,
        spool: str = KEEP,
        spool_budget: float = 20.0,
        state_budget: float = 8.0,
        state_dtype: StateType = "auto",
        script: AvatarScript | None = None,
        pose_video: object = None,
        pose_end: PoseEnd = "hold",
        motion_strength: float = 1.0,
    ) -> io.NodeOutput:
        check_number(cls, spool_budget=spool_budget, state_budget=state_budget, motion_strength=motion_strength)
        inputs = SamplerInputs(model, positive, vae, image, avatar_audio, plan, script, PoseInput(pose_video, pose_end))
        caches = CacheChoice(kv_cache, kv_dtype, schedule)
        keeping = SpoolChoice(spool, spool_budget, state_budget, state_dtype)
        notes = Notes()
        settings = SamplerSettings(caches, attention, compile, keeping, motion_strength)
        latents = prepare_latents(inputs, settings, cls.hidden, notes)
        return notes.output(latents)
