"""DiT Sampler: picture, voice, prompt and plan to a lazy stream of latent blocks."""

from typing import TYPE_CHECKING, get_args

from comfy_api.latest import io

from liveavatar_runtime.dit.backends import BACKENDS
from liveavatar_runtime.planning.memory import CacheChoice, KVCacheChoice, KVTypeChoice, ScheduleChoice
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest
from liveavatar_runtime.spool.states import StateType

from ..comfy_bridge.attention import COMFYUI_ATTENTION
from ..comfy_bridge.avatar import AvatarModel
from ..comfy_bridge.comfy_types import Vae
from ..comfy_bridge.execution import SamplerInputs, SamplerSettings, prepare_latents
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.spool_folder import KEEP, SPOOL_CHOICES, SpoolChoice
from ..comfy_bridge.validation import check_number, verdict
from .types import CATEGORY, AudioSocket, LatentsSocket, ModelSocket, PlanSocket

if TYPE_CHECKING:
    from liveavatar_runtime.audio.features import AvatarAudio


class DiTSampler(io.ComfyNode):
    """Prepares sampling. Nothing is sampled here: the blocks are made when a later node asks for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_DiTSampler",
            display_name="DiT Sampler",
            category=CATEGORY,
            description="Samples the avatar block by block while Online VAE Decode takes the blocks; shows previews.",
            search_aliases=["live avatar sampler", "talking head", "lip sync", "数字人", "对口型"],
            inputs=[
                ModelSocket.Input("model", tooltip="From Load Avatar Model."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt, from CLIP Text Encode."),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE; encodes the picture."),
                io.Image.Input("image", tooltip="The picture of the avatar; the first one of a batch is used."),
                AudioSocket.Input("avatar_audio", tooltip="The voice, from Audio Encode."),
                PlanSocket.Input("plan", tooltip="From Clip Scheduler."),
                io.Combo.Input(
                    "kv_cache",
                    options=list(get_args(KVCacheChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Where the key/value caches are kept: on the device, or in RAM and brought layer by layer.",
                ),
                io.Combo.Input(
                    "kv_dtype",
                    options=list(get_args(KVTypeChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the caches are kept as; fp8 halves them and changes the result a little, so all "
                    "clips are sampled anew.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(get_args(ScheduleChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="batched runs the blocks of all steps together, so weights are moved once a block.",
                ),
                io.Combo.Input(
                    "attention",
                    options=[COMFYUI_ATTENTION, *BACKENDS],
                    default=COMFYUI_ATTENTION,
                    optional=True,
                    advanced=True,
                    tooltip="Attention kernel; comfyui is what ComfyUI was started with. sage and flash need packages. "
                    "With or without sage, clips are sampled anew.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Run the layers through torch.compile: the first block takes minutes, later ones less.",
                ),
                io.Combo.Input(
                    "spool",
                    options=list(SPOOL_CHOICES),
                    default=KEEP,
                    optional=True,
                    advanced=True,
                    tooltip="Keep finished clips on the disk: the same video goes on after an interruption or a crash.",
                ),
                io.Float.Input(
                    "spool_budget",
                    default=20.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for clips and states of all videos; the longest unused are removed. 0: no limit.",
                ),
                io.Float.Input(
                    "state_budget",
                    default=8.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for states to go on from, exact (14B, 688x368: 27) or fp8 (14); below it warms up.",
                ),
                io.Combo.Input(
                    "state_dtype",
                    options=list(get_args(StateType)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What states are kept as; fp8 halves them and goes on inexactly. auto: exact if it fits.",
                ),
            ],
            outputs=[LatentsSocket.Output("latents", display_name="latents", tooltip="Latent blocks, made on demand.")],
            hidden=[io.Hidden.unique_id],
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
        avatar_audio: "AvatarAudio",
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
    ) -> io.NodeOutput:
        check_number(cls, spool_budget=spool_budget, state_budget=state_budget)
        inputs = SamplerInputs(model, positive, vae, image, avatar_audio, plan)
        caches = CacheChoice(kv_cache, kv_dtype, schedule)
        keeping = SpoolChoice(spool, spool_budget, state_budget, state_dtype)
        notes = Notes()
        latents = prepare_latents(inputs, SamplerSettings(caches, attention, compile, keeping), cls.hidden, notes)
        return notes.output(latents)
