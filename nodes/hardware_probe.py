"""Hardware Probe: a short video that tells whether a machine suits this model, and how fast it is."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..comfy_bridge.avatar import AvatarModel
from ..comfy_bridge.comfy_types import Vae
from ..comfy_bridge.hardware_probe import ProbeInputs, ProbeSize, probe
from ..comfy_bridge.notes import Notes
from .search_words import search_words
from .types import CATEGORY, AudioSocket, ModelSocket

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice


class HardwareProbe(io.ComfyNode):
    """Samples, decodes and encodes a short video of its own and keeps nothing but the report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_HardwareProbe",
            display_name="Hardware Probe",
            category=CATEGORY,
            description="Makes a short video of its own and says whether this machine suits the model: first block, "
            "evenness, memory, copies between cards. The planner remembers how fast it was.",
            search_aliases=search_words("LiveAvatar_HardwareProbe"),
            inputs=[
                ModelSocket.Input("model", tooltip="From Load Avatar Model."),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE."),
                io.Int.Input("num_clip", default=10, min=1, max=100, tooltip="Number of clips."),
                io.Int.Input(
                    "width",
                    default=384,
                    min=64,
                    max=4096,
                    step=16,
                    tooltip="Pixels, a multiple of 16. A model that knows one size only is tried at that one.",
                ),
                io.Int.Input("height", default=256, min=64, max=4096, step=16, tooltip="Pixels, a multiple of 16."),
                io.Int.Input(
                    "infer_frames",
                    default=36,
                    min=12,
                    max=240,
                    step=12,
                    tooltip="Video frames of a clip, a multiple of 12.",
                ),
                io.Int.Input("steps", default=3, min=1, max=100, tooltip="Sampling steps: 3 to check, 4 to deliver."),
                io.Conditioning.Input("positive", optional=True, tooltip="An encoded prompt; without one, noise."),
                io.Image.Input("image", optional=True, tooltip="A picture; without one, the demo's portrait."),
                AudioSocket.Input("avatar_audio", optional=True, tooltip="A voice; without one, noise."),
            ],
            outputs=[io.String.Output("report", display_name="report", tooltip="Findings and tables in Markdown.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Never equal: whoever presses Run again wants it measured again."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        model: AvatarModel,
        vae: Vae | None,
        num_clip: int,
        width: int,
        height: int,
        infer_frames: int,
        steps: int,
        positive: object = None,
        image: object = None,
        avatar_audio: "Voice | None" = None,
    ) -> io.NodeOutput:
        inputs = ProbeInputs(model, vae, positive, image, avatar_audio)
        notes = Notes()
        report = probe(inputs, ProbeSize(num_clip, width, height, infer_frames, steps), cls.hidden, notes)
        return notes.output(report)
