"""DiT Sampler: picture, voice, prompt and plan to a lazy stream of latent blocks."""

from collections.abc import Iterator
from typing import Any

from comfy_api.latest import io

from ..liveavatar_runtime.errors import InputError
from ..liveavatar_runtime.sampling.block_loop import LatentBlock
from ..liveavatar_runtime.sampling.latent_stream import LatentStream
from ..liveavatar_runtime.sampling.plan import ClipPlan
from . import comfy_bridge as bridge
from .types import CATEGORY, AudioSocket, AvatarLatents, AvatarModel, LatentsSocket, ModelSocket, PlanSocket
from .vae_bridge import StreamingVAE, streaming_vae


class DiTSampler(io.ComfyNode):
    """Prepares sampling. Nothing is sampled here: the blocks are made when a later node asks for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_DiTSampler",
            display_name="DiT Sampler",
            category=CATEGORY,
            description="Samples the avatar block by block while Online VAE Decode takes the blocks; shows previews.",
            search_aliases=["live avatar sampler", "talking head"],
            inputs=[
                ModelSocket.Input("model", tooltip="From Load Avatar Model."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt, from CLIP Text Encode."),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE; encodes the picture."),
                io.Image.Input("image", tooltip="The picture of the avatar; the first one of a batch is used."),
                AudioSocket.Input("avatar_audio", tooltip="The voice, from Audio Encode."),
                PlanSocket.Input("plan", tooltip="From Clip Scheduler."),
            ],
            outputs=[LatentsSocket.Output("latents", display_name="latents", tooltip="Latent blocks, made on demand.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: AvatarModel, positive: Any, vae: Any, image: Any, avatar_audio: Any, plan: ClipPlan
    ) -> io.NodeOutput:
        from ..liveavatar_runtime.media.images import first_picture
        from ..liveavatar_runtime.planning.memory import check_fits
        from ..liveavatar_runtime.sampling.prepare import prepare

        picture, note = first_picture(image)
        plan = plan.fitted_to(picture.shape[0], picture.shape[1])
        check_fits(model.config, plan, model.dtype, bridge.device_memory(model.patcher.load_device))
        streaming = streaming_vae(vae)
        module, device = streaming.on_device()
        prepared = prepare(
            plan, model.config, picture, prompt_of(positive), avatar_audio, module, device, streaming.dtype
        )
        node_id = cls.hidden.unique_id
        final = prepared.plan
        size = f"{final.width}x{final.height}, {final.num_clip} clips, {final.frames} frames"
        bridge.show_text(node_id, "\n".join(filter(None, (size, note, *prepared.notes))))

        def start(first_block: int) -> Iterator[LatentBlock]:
            return sample(model, streaming, prepared.conditions, final, first_block, node_id)

        return io.NodeOutput(AvatarLatents(LatentStream(final, prepared.priming, start), avatar_audio))


def prompt_of(conditioning: Any) -> Any:
    """The encoded prompt [tokens, width] of a CONDITIONING. Raises InputError unless it holds exactly one."""
    if len(conditioning) != 1:
        raise InputError(
            f"the positive input holds {len(conditioning)} prompts; the model takes one. Combine the texts in one "
            "CLIP Text Encode instead of Conditioning (Combine)."
        )
    return conditioning[0][0][0]


def sample(
    model: AvatarModel, vae: StreamingVAE, conditions: Any, plan: ClipPlan, first_block: int, node_id: str
) -> Iterator[LatentBlock]:
    """Blocks from number `first_block` on; loads the model when the first one is asked for."""
    from ..liveavatar_runtime.parallel.local import LocalExecutor
    from ..liveavatar_runtime.planning.memory import decode_bytes, working_bytes

    # The blocks are decoded while the next ones are sampled.
    decoding = decode_bytes(vae.patcher.model.config, plan, vae.dtype)
    needed = working_bytes(model.config, plan, model.dtype) + decoding
    device = bridge.load_on_device(model.patcher, needed, beside=[vae.patcher])
    executor = LocalExecutor(model.transformer(bridge.attention), device, model.dtype)
    blocks = executor.run(conditions, plan, after_step=bridge.SamplingProgress(node_id, plan))
    yield from (block for block in blocks if block.index >= first_block)
