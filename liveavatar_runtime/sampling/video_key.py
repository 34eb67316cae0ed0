"""Content hashes: what makes two videos the same one."""

from dataclasses import asdict, dataclass

from ..fingerprint import Fingerprint
from .conditions import Conditions
from .plan import ClipPlan

# Raised when the same inputs begin to give other latents.
FORMAT = 3
NOT_IN_KEY = {"num_clip", "segment_clips", "segment_index", "keep_aspect", "cut_frames", "script", "takes"}
"""Fields of a plan that change how much of a video is made, not what is in it, and the script, which names of clips and
states tell (`spool.chain`)."""


EXACT = "exact"
"""Attention by any kernel that computes it as defined: PyTorch's, flash, xformers. They round in another order only."""


@dataclass(frozen=True)
class Numerics:
    """How a model computes, as far as that decides latents beyond the order of rounding.

    `weights`: the formats that the weights are held in (a LoRA is rounded to them); `computes`: dtype of hidden states;
    `attention`: `EXACT`, or the name of a kernel that approximates; `kv_dtype`: what the caches are kept as
    (`planning.memory.Placement`); `patches`: of what other programs put on the model; `compiled`: whether the layers
    go through `torch.compile`, which joins operations and leaves roundings out.

    Executors, devices, schedules and the exact kernels are not in it: on a processor they give the same bits, on a GPU
    the same numbers but for rounding, and hours of sampling are not thrown away for that.
    """

    weights: str
    computes: str
    attention: str = EXACT
    kv_dtype: str = "model"
    patches: tuple[str, ...] = ()
    compiled: bool = False

    def in_key(self) -> dict[str, object]:
        """For the key, in which `compiled` is only where it is on: earlier versions had it in none."""
        return {name: value for name, value in asdict(self).items() if name != "compiled" or value}


def video_key(weights: str, numerics: Numerics, conditions: Conditions, voice: str, plan: ClipPlan) -> str:
    """Name of a video: equal for equal model, conditions and plan, whatever the number of clips and the segments, and
    whatever computes it.

    `weights` (`parallel.weights_key`) and `voice` are fingerprints of their own. A longer plan with the same settings
    begins with the same clips, because each clip has noise of its own and looks back only.
    """
    fields = {name: value for name, value in asdict(plan).items() if name not in NOT_IN_KEY}
    if plan.sink_policy != "reanchor":
        del fields["reanchor_clips"]
    if not plan.endless:
        # Earlier versions had no such plans, and their keys hold.
        del fields["endless"]
    fingerprint = Fingerprint().add("format", FORMAT).add("weights", weights).add("numerics", numerics.in_key())
    fingerprint.add("voice", voice).add("plan", fields)
    for name in ("text", "reference", "motion", "actor_masks"):
        fingerprint.add(name, getattr(conditions, name))
    if conditions.pose_key:
        # Earlier versions had no pose, and their keys hold.
        fingerprint.add("pose", conditions.pose_key)
    return fingerprint.hexdigest()[:32]
