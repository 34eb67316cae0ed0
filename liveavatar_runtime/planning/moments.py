"""What sampling holds beside weights and caches: the blocks under way, and the tensors of its largest moments.

A device is fullest while a layer computes a block, or of a small video while a block's voice is encoded. Before there
are caches, text, time and motion frames are embedded, which takes more where caches are small. A plan counts the
largest moment (`memory.working_rows`).
"""

from ..config import FRAME_PACK_BUCKETS
from ..dit.rope import RopeTables, axis_pairs
from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from .workload import Workload

FLOAT32 = 4
TURNS_BYTES = 16
"""Of one pair of a token's position: cos, sin and the complex number of both."""
MODULATIONS = 7
"""Of a time step, in float32: six for the layers, one for the head."""
VOICE_KERNEL = 3
"""Frames that a convolution of the voice's encoder sees at once."""
OLDEST_SCALE = 4
"""By which the packer's largest kernel exceeds a patch in each direction."""


def text_bytes(work: Workload) -> int:
    """Keys and values of the prompt for every layer; twice where it changes, as blocks under way keep the old one."""
    config = work.config
    prompts = 2 if work.plan.script.changes_text else 1
    return prompts * 2 * config.num_layers * config.text_len * config.dim * work.dtype.itemsize


def blocks_bytes(work: Workload, batched: bool = False) -> int:
    """What the blocks under way have, and what a video has once for all of them.

    Of each its latents, positions and voice, and its hidden states where it waits between two stages; once the noise
    of a clip, a velocity with the latents that come out, the modulations of all steps, the motion frames' tokens and
    the tables of positions.
    """
    config = work.config
    blocks = work.plan.steps if batched else work.blocks
    each = work.latents_bytes() + _positions_bytes(work) + _voice_bytes(work)
    waiting = 0 if batched else (blocks - 1) * work.hidden_bytes()
    noise = (work.plan.blocks_per_clip + 2) * work.latents_bytes()
    modulations = (work.plan.steps + 1) * MODULATIONS * config.dim * FLOAT32
    motion = work.embeds * work.cache_shape.motion_tokens * config.dim * work.dtype.itemsize
    temporal, rows, columns = axis_pairs(config.head_dim)
    values = (RopeTables.PAGE + RopeTables.LONGEST) * temporal
    values += work.plan.grid[0] * rows + work.plan.grid[1] * columns
    return blocks * each + waiting + noise + modulations + motion + 2 * FLOAT32 * values


def _positions_bytes(work: Workload) -> int:
    """Of one block."""
    return TURNS_BYTES * work.tokens * (work.config.head_dim // 2)


def _voice_bytes(work: Workload) -> int:
    """Of one block: for each injection, shift and scale of each latent frame as they are computed, 1 + scale, keys and
    values."""
    config = work.config
    of_frame = 3 + 2 * (config.num_audio_token + 1)
    return len(config.audio_inject_layers) * LATENT_FRAMES_PER_BLOCK * of_frame * config.dim * work.dtype.itemsize


def activation_bytes(work: Workload, batched: bool = False) -> int:
    """Peak of one evaluation's (or one batch's) intermediate tensors.

    The widest moment is the FFN: its hidden layer before and after the activation, beside the residual and the
    modulated input in float32 and in the model's dtype.
    """
    config, size = work.config, work.dtype.itemsize
    tokens = work.tokens * (work.plan.steps if batched else 1)
    values = tokens * (2 * config.ffn_dim * size + 3 * config.dim * FLOAT32 + 2 * config.dim * size)
    return values + _stacked_bytes(work, batched)


def attention_bytes(work: Workload, batched: bool = False) -> int:
    """The same while a layer's attention brings its cache: the batch's input and hidden states before and after
    modulation, queries, keys, values, and the rotated keys in float32."""
    tokens = work.tokens * (work.plan.steps if batched else 1)
    return tokens * work.config.dim * (6 * work.dtype.itemsize + FLOAT32) + _stacked_bytes(work, batched)


def voice_bytes(work: Workload) -> int:
    """The features of a block's voice while they are encoded, and the copy of the encoder's largest kernel that a
    processor's convolution makes."""
    config = work.config
    features = 2 * config.audio_layers * config.audio_dim * (FRAMES_PER_BLOCK + 1)
    first = config.dim // 4 * config.num_audio_token * config.audio_dim
    return (features + VOICE_KERNEL * max(first, config.dim * config.dim // 2)) * work.dtype.itemsize


def _stacked_bytes(work: Workload, batched: bool) -> int:
    """Positions of a batch: those of its blocks once more."""
    return work.plan.steps * _positions_bytes(work) if batched else 0


def embedding_bytes(work: Workload) -> int:
    """Text and time while they are embedded: the padded prompt, what it becomes, and in half precision the projection
    of time steps as float32."""
    config, size = work.config, work.dtype.itemsize
    text = config.text_len * (config.text_dim + 2 * config.dim) * size
    if size == FLOAT32:
        return text
    return max(text, config.text_len * config.dim * size + 6 * config.dim**2 * FLOAT32)


def packing_bytes(work: Workload) -> int:
    """The motion frames while they are packed: latents, tokens, and the copy of the largest kernel.

    A processor's convolution copies that into a layout of its own; a card may take as much for its work.
    """
    config, size = work.config, work.dtype.itemsize
    frames, rows, columns = config.patch_size
    kernel = config.in_dim * config.dim * OLDEST_SCALE**3 * frames * rows * columns * size
    height, width = work.plan.latent_size
    latents = config.in_dim * sum(FRAME_PACK_BUCKETS) * height * width * size
    return kernel + latents + 2 * work.cache_shape.motion_tokens * config.dim * size
