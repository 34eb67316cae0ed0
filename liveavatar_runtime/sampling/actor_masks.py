"""Which voice moves which tokens of a video, where several people speak."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio.conversation import Conversation
from ..duration import LATENT_FRAMES_PER_BLOCK
from ..errors import InputError
from ..media.areas import same_aspect
from ..media.images import fit_mask
from .plan import ClipPlan


def check_picture(voice: Conversation, height: int, width: int) -> None:
    """Raises InputError unless the masks are those of a picture of this size, or of its aspect."""
    rows, columns = voice.masks.shape[1:]
    if not same_aspect((rows, columns), (height, width)):
        raise InputError(
            f"the speakers' areas were marked in a picture of {columns}x{rows}, and image is {width}x{height}. Connect "
            "the same picture to Speakers and to DiT Sampler."
        )


def shown_areas(voice: Conversation, plan: ClipPlan) -> Tensor:
    """float32 [A, height, width], 0 or 1: the speakers' areas in the video's pixels, cropped as the picture is.

    Raises InputError for an area of which nothing is left.
    """
    areas = torch.stack([fit_mask(mask, plan.height, plan.width) for mask in voice.masks])
    for number, area in enumerate(areas, 1):
        if not (area > 0.5).any():
            raise InputError(
                f"the area of speaker {number} is outside of what the video shows: a video of {plan.width}x"
                f"{plan.height} shows the middle of the picture. Choose a size nearer to the picture's aspect."
            )
    return (areas > 0.5).float()


def token_weights(voice: Conversation, plan: ClipPlan) -> Tensor:
    """`Conditions.actor_masks`, float32 [A, 3, rows, columns]: 1 where a voice counts, which is where no other
    speaker is, as in the original. So tokens of nobody get all voices, those of two speakers none.

    Raises InputError for a speaker whose voice would move nothing.
    """
    tokens = F.interpolate(shown_areas(voice, plan)[:, None], plan.grid, mode="bilinear")[:, 0] > 0.5
    areas = torch.stack([_with_margin(area, voice.margin) for area in tokens])
    others = areas.sum(dim=0) - areas.int() > 0
    for number, (area, elsewhere) in enumerate(zip(tokens, others, strict=True), 1):
        if not (area & ~elsewhere).any():
            raise InputError(
                f"the area of speaker {number} is too small or too near to the others in a video of {plan.width}x"
                f"{plan.height}, where a token has 16x16 pixels. Make the mask or the video larger, or mask_margin "
                f"smaller than {voice.margin:g}."
            )
    return (~others).float()[:, None].expand(-1, LATENT_FRAMES_PER_BLOCK, -1, -1).contiguous()


def _with_margin(area: Tensor, margin: float) -> Tensor:
    """bool [rows, columns] -> the same with the tokens around it, to every side, of a share of its longer side."""
    places = area.nonzero()
    if not margin or not len(places):
        return area
    longer = int((places.amax(dim=0) - places.amin(dim=0)).max()) + 1
    # Rounded up as in the original, where a product such as 0.1 * 30 is not exact.
    radius = max(1, int(margin * longer + 0.9999))
    return F.max_pool2d(area[None, None].float(), 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0
