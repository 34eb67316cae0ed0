"""What the blocks of a live video are sampled with, and what somebody changes of it while it runs."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan
from ..sampling.script import Change, Script


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded:
    """A change as the model takes it; None: as before. text [tokens, text_dim]; reference [16, 1, h, w], a picture in
    the model's space; seed, motion as in `Change`."""

    text: Tensor | None = None
    reference: Tensor | None = None
    seed: int | None = None
    motion: float | None = None


@dataclass(frozen=True, eq=False)
class Directed:
    """An endless plan with its script so far, and the conditions that belong to it."""

    plan: ClipPlan
    conditions: Conditions

    def changed(self, block: int, new: Encoded) -> "Directed":
        """With a change from a block on that is still to be sampled. Of what was changed before only what is in force
        then is kept, so that nothing grows with the number of changes."""
        script, conditions = self.plan.script, self.conditions
        texts = {since: conditions.texts[since] for since in {script.text_since(block)} if since}
        pictures = {since: conditions.pictures[since] for since in {script.picture_since(block)} if since}
        if new.text is not None:
            texts = {block: new.text.float().cpu()}
        if new.reference is not None:
            pictures = {block: new.reference}
        seed = new.seed if new.seed is not None else script.seed_at(block, self.plan.seed)
        motion = new.motion if new.motion is not None else script.motion_at(block)
        own = Change(block=block, text=block in texts, picture=block in pictures, seed=seed, motion=motion)
        others = (
            Change(block=since, text=since in texts, picture=since in pictures)
            for since in sorted({*texts, *pictures} - {block})
        )
        plan = replace(self.plan, script=Script((*others, own), script.motion))
        return Directed(plan, replace(conditions, texts=texts, pictures=pictures))
