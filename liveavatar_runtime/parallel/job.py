"""What ComfyUI asks of the workers, as messages: a run's plan and conditions, without its voice.

The voice follows block by block when the model wants it, so that memory does not grow with its length.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from torch import Tensor

from ..planning.memory import ON_DEVICE, Placement
from ..sampling.block_loop import RunStart
from ..sampling.conditions import Conditions, FrameFeatures
from ..sampling.plan import ClipPlan
from .channel import ChannelError, Message

FIRST_FRAME = "first_frame."


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run without its voice. `number` tells runs apart; `kept_rings`: blocks after which the state is wanted;
    `placement`: of the caches on every rank."""

    number: int
    plan: ClipPlan
    tensors: Mapping[str, Tensor]
    """text, reference, motion, perhaps actor_masks; and first_frame.<block> of RunStart."""
    first_block: int
    kept_rings: frozenset[int]
    rings: Mapping[str, Tensor] | None = None
    placement: Placement = ON_DEVICE

    @classmethod
    def of(
        cls,
        number: int,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart,
        kept_rings: Iterable[int],
        placement: Placement = ON_DEVICE,
    ) -> "Job":
        tensors = {"text": conditions.text, "reference": conditions.reference, "motion": conditions.motion}
        if conditions.actor_masks is not None:
            tensors["actor_masks"] = conditions.actor_masks
        tensors |= {f"{FIRST_FRAME}{block}": frame for block, frame in start.first_frames.items()}
        return cls(
            number=number,
            plan=plan,
            tensors=tensors,
            first_block=start.first_block,
            kept_rings=frozenset(kept_rings),
            rings=start.rings,
            placement=placement,
        )

    def messages(self) -> Iterable[Message]:
        """The run itself, then one message for each tensor of the rings, so that none is large."""
        header = {
            "type": "run",
            "number": self.number,
            "plan": plan_to_json(self.plan),
            "first_block": self.first_block,
            "kept_rings": sorted(self.kept_rings),
            "rings": None if self.rings is None else len(self.rings),
            "placement": asdict(self.placement),
        }
        yield Message(header, dict(self.tensors))
        for name, tensor in (self.rings or {}).items():
            yield Message({"type": "ring", "number": self.number}, {name: tensor})

    @classmethod
    def from_messages(cls, message: Message, rings: Mapping[str, Tensor] | None) -> "Job":
        """Raises ChannelError when the message is not one of `messages`, InputError for a plan that cannot work."""
        try:
            return cls(
                number=int(message.header["number"]),
                plan=plan_from_json(message.header["plan"]),
                tensors={name: message.tensors[name] for name in ("text", "reference", "motion")} | message.tensors,
                first_block=int(message.header["first_block"]),
                kept_rings=frozenset(map(int, message.header["kept_rings"])),
                rings=rings,
                placement=Placement(**message.header["placement"]),
            )
        except (KeyError, TypeError) as error:
            raise ChannelError(f"the other side sent a run without {error}") from error

    def conditions(self, audio: FrameFeatures) -> Conditions:
        names = ("text", "reference", "motion")
        masks = self.tensors.get("actor_masks")
        return Conditions(**{name: self.tensors[name] for name in names}, audio=audio, actor_masks=masks)

    def start(self) -> RunStart:
        frames = {
            int(name.removeprefix(FIRST_FRAME)): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(FIRST_FRAME)
        }
        return RunStart(self.first_block, frames, self.rings)


def plan_to_json(plan: ClipPlan) -> dict[str, Any]:
    """Fields of a plan; fractions as "16/1"."""
    values = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return {name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()}


def plan_from_json(values: dict[str, Any]) -> ClipPlan:
    """Raises InputError for a plan that cannot work, TypeError for one of other fields."""
    exact = {field.name for field in fields(ClipPlan) if field.type in (Fraction, "Fraction")}
    read: dict[str, Any] = {}
    for name, value in values.items():
        read[name] = Fraction(value) if name in exact else tuple(value) if isinstance(value, list) else value
    return ClipPlan(**read)
