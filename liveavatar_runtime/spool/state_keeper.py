"""Which states of a video are on the disk: written, forgotten, and given up where a clip needs their room."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from ..sampling.plan import ClipPlan
from .spool import NoRoom, Spool
from .states import State, StateSettings


class StateKeeper:
    """Writes clips and states of a plan into its spool so that clips come first where there is little room.

    All states together, also while one is written, keep within the settings' budget.
    """

    def __init__(self, plan: ClipPlan, spool: Spool, settings: StateSettings) -> None:
        self.settings = settings
        self._plan, self._spool = plan, spool

    def wanted_after(self, block: int) -> bool:
        """Whether the state after a block is kept."""
        return self.settings.wanted_after(self._plan, block)

    def write_state(self, state: State, still_needed: int = 0) -> None:
        """Write a state, unless a newer one makes it useless; older ones go as far as it needs their room.

        Raises NoRoom when that does not suffice, else as `Spool.write_state`.
        """
        sizes, new = self._spool.state_sizes(), state.next_block
        kept = self.settings.kept(self._plan, {**sizes, new: self.settings.size})
        if new not in kept:
            return
        self._forget(sizes.keys() - kept - self._wait_for(new, sizes, kept))
        self._make_room_beside_other_branches()
        write = partial(self._spool.write_state, state, still_needed, self.settings.fp8)
        while not _wrote(write, lambda: self._older(new)):
            self._spool.remove_state(self._older(new)[0])
        self.forget_surplus()

    def write_clip(self, clip: int, latents: Tensor, still_needed: int) -> bool:
        """Write a clip, in the place of states where there is no other; True when states had to go.

        Raises NoRoom when there is none left, else as `Spool.write_clip`.
        """
        gave_up = False
        write = partial(self._spool.write_clip, clip, latents, still_needed)
        while not _wrote(write, lambda: [*self._spool.other_states(), *self._spool.states()]):
            others = self._spool.other_states()
            if others:
                self._spool.remove_other_state(others[0][0])
                continue
            self._spool.remove_state(self._spool.states()[0])
            gave_up = True
        return gave_up

    def forget_surplus(self) -> None:
        """Forget what `StateSettings.kept` does not keep."""
        sizes = self._spool.state_sizes()
        self._forget(sizes.keys() - self.settings.kept(self._plan, sizes))

    def _wait_for(self, new: int, sizes: dict[int, int], kept: set[int]) -> set[int]:
        """The state that a crash goes on from until the new one is on the disk, if the budget has room for both."""
        last = {max(self._older(new), default=new)}
        together = sum(sizes.get(block, self.settings.size) for block in kept | last)
        return last if together <= self.settings.budget else set()

    def _make_room_beside_other_branches(self) -> None:
        """States of all branches keep within the budget: those of others that were not used for longest go first."""
        own = sum(self._spool.state_sizes().values()) + self.settings.size
        others = self._spool.other_states()
        while others and own + sum(size for _, _, size in others) > self.settings.budget:
            self._spool.remove_other_state(others.pop(0)[0])

    def _older(self, block: int) -> list[int]:
        return [other for other in self._spool.states() if other < block]

    def _forget(self, blocks: set[int]) -> None:
        for block in blocks:
            self._spool.remove_state(block)


def _wrote(write: Callable[[], None], removable: Callable[[], Sequence[object]]) -> bool:
    """False when there is no room and a state could make some."""
    try:
        write()
    except NoRoom:
        if not removable():
            raise
        return False
    return True
