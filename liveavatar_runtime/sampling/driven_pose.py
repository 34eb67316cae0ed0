"""The pose of a video: latents of a driving video, encoded block by block while the video is sampled.

Fed as the original feeds it: a clip is encoded by itself, its first picture twice, and the latent of the first one is
left out. So four pictures make a latent, those of the four frames of the video that it drives, and a clip's latents are
the same whatever was encoded before it: a run may begin at any of them.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from ..aligned import align_weights, aligned
from ..duration import FRAMES_PER_BLOCK, driving_time
from ..media.driving_video import DrivingPictures
from ..media.images import cover_pixels
from ..out_of_memory import pictures_told
from ..vae.config import to_model_space
from ..vae.memory import encode_bytes_per_pixel
from ..vae.model import PlacedVAE
from ..vae.state import EncodeState
from .plan import ClipPlan
from .prepare import check_encoded

REMEMBERED = 64
"""Blocks whose latents are kept: stages of a pipeline ask for a block one after the other."""

NOWHERE = -1


@dataclass(frozen=True)
class DrivingVideo:
    """Pictures that drive a video, the first one at its beginning; after their end they begin again if it `loops`,
    else the last one stays. `key`: of what they show."""

    pictures: DrivingPictures
    loops: bool
    key: str


class DrivenPose:
    """`PoseLatents` of a driving video for a plan, made when they are asked for, by whatever thread."""

    def __init__(self, video: DrivingVideo, plan: ClipPlan, place: PlacedVAE) -> None:
        self._video, self._plan, self._place = video, plan, place
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Tensor] = OrderedDict()
        self._state = EncodeState()
        self._next = NOWHERE
        """The block that `_state` goes on with."""

    def latents(self, block: int) -> Tensor:
        """float32 [16, 3, h, w] in the model's space, on the CPU. Raises InputError when the file cannot be read."""
        with self._lock:
            if block not in self._known:
                first = block // self._plan.blocks_per_clip * self._plan.blocks_per_clip
                if not first < self._next <= block:
                    self._next = first
                for number in range(self._next, block + 1):
                    self._known[number] = self._encoded(number)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return self._known[block]

    def close(self) -> None:
        """Let go of the file and of what is remembered."""
        with self._lock:
            self._video.pictures.close()
            self._known.clear()
            self._state, self._next = EncodeState(), NOWHERE

    def _encoded(self, block: int) -> Tensor:
        plan, place = self._plan, self._place
        frames = range(block * FRAMES_PER_BLOCK, (block + 1) * FRAMES_PER_BLOCK)
        pictures = [self._picture(frame) for frame in frames]
        left_out = int(block % plan.blocks_per_clip == 0)
        if left_out:
            self._state = EncodeState()
            pictures.insert(0, pictures[0])
        # Until it is through: an error leaves a state that nothing can go on from.
        self._next = NOWHERE
        each = encode_bytes_per_pixel(place.vae.config, place.dtype)
        size = plan.width, plan.height
        told = pictures_told("encoding a block of pose_video at {size}", size, place.device, each, beside_caches=True)
        with told, torch.inference_mode():
            align_weights(place.vae, place.device)
            pixels = aligned(torch.stack(pictures, dim=1)[None].to(device=place.device, dtype=place.dtype))
            raw = place.vae.encode_stream(pixels, self._state)[0, :, left_out:]
            check_encoded(place.vae, [raw], place.dtype)
            self._next = block + 1
            return to_model_space(raw.float()).cpu()

    def _picture(self, frame: int) -> Tensor:
        """What drives a frame of the video, as the VAE reads it: float32 [3, H, W] in -1..1."""
        video, plan = self._video, self._plan
        seconds = driving_time(frame, plan.fps, video.pictures.length, video.loops)
        return cover_pixels(video.pictures.picture_at(seconds), plan.height, plan.width)
