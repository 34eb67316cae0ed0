"""The pack's ComfyUI nodes."""

from comfy_api.latest import ComfyExtension, io

from ..comfy_bridge import demo_inputs, folders, live_routes, page_routes, validation
from ..comfy_bridge.live import voice_routes
from .audio_encode import AudioEncode
from .avatar_script import AvatarScript
from .clip_judge import ClipJudge
from .clip_scheduler import ClipScheduler
from .collect_latents import CollectLatents
from .dit_sampler import DiTSampler
from .duration_calc import DurationCalc
from .finish_background import FinishBackground
from .finish_colours import FinishColours
from .finish_frame_rate import FinishFrameRate
from .finish_upscale import FinishUpscale
from .hardware_probe import HardwareProbe
from .join_segments import JoinSegments
from .live_out import LiveOut
from .live_voice import LiveVoice
from .load_avatar_model import LoadAvatarModel
from .online_vae_decode import OnlineVAEDecode
from .plan_check import PlanCheck
from .script_change import ScriptChange
from .speakers import Speakers
from .spools import AvatarSpools


class LiveAvatarExtension(ComfyExtension):
    async def on_load(self) -> None:
        folders.register_folders()
        demo_inputs.provide_demo_inputs()
        demo_inputs.answer_prompts()
        validation.watch_requests()
        page_routes.answer_page()
        live_routes.add_routes()
        voice_routes.add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadAvatarModel,
            AudioEncode,
            ClipScheduler,
            DiTSampler,
            OnlineVAEDecode,
            DurationCalc,
            CollectLatents,
            JoinSegments,
            AvatarSpools,
            PlanCheck,
            HardwareProbe,
            AvatarScript,
            ScriptChange,
            Speakers,
            FinishUpscale,
            FinishColours,
            FinishBackground,
            FinishFrameRate,
            ClipJudge,
            LiveVoice,
            LiveOut,
        ]
