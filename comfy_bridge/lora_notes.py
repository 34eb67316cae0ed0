"""What Load Avatar Model tells about LoRAs: what is applied, what is left out, and that the distillation is missing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar_runtime.config import AvatarConfig

from .avatar import AvatarModel
from .folders import lora_paths, maps_files
from .notes import Notes

if TYPE_CHECKING:
    from liveavatar_runtime.checkpoint.lora import FittedLora

    from .comfy_types import Patcher

LIVE_AVATAR_NAME = re.compile(r"live[\W_]*avatar", re.IGNORECASE)
"""In the name of a file whose weights have the LoRA merged in; nothing else in it tells."""


def loras_for_workers(config: AvatarConfig, loras: Sequence[tuple[Path, float]]) -> list["FittedLora"]:
    """What workers will merge. Raises CheckpointError for a LoRA that they cannot, or that fits nothing."""
    from liveavatar_runtime.checkpoint.detect import expected_shapes
    from liveavatar_runtime.checkpoint.lora import fit_lora, open_lora
    from liveavatar_runtime.checkpoint.lora_merge import check_mergeable

    fitted = [fit_lora(open_lora(path, mapped=maps_files()), expected_shapes(config)) for path, _ in loras]
    for one in fitted:
        check_mergeable(one)
    return fitted


def tell_loras(notes: Notes, loras: Sequence[tuple[Path, float]], fitted: Sequence["FittedLora"]) -> None:
    """A line for each LoRA, and a warning for what of it is left out."""
    for one, (_, strength) in zip(fitted, loras, strict=True):
        notes.warn(one.shortfall())
        notes.tell(one.describe(strength))


def ignored_loras(loras: Sequence[tuple[Path, float]], own: Path | None) -> str | None:
    """Says that LoRAs which the user chose are not applied: workers that run already have loaded theirs."""
    names = [path.name for path, _ in loras if path != own]
    if not names:
        return None
    return (
        f"{', '.join(names)} is not applied: the workers were started with LoRAs of their own. "
        "Start them with --lora FILE STRENGTH, or leave workers empty."
    )


def changed_weights(
    patcher: "Patcher | None", loras: Sequence[tuple[Path, float]], fitted: Sequence["FittedLora"]
) -> set[str]:
    """Names of the transformer's weights that patches of any strength but 0 change.

    `patcher`: ComfyUI's, which also knows the patches that a connected MODEL came with; None for workers.
    """
    from liveavatar_runtime.checkpoint.lora import CORE_PREFIX

    if patcher is None:
        return {target for one, (_, strength) in zip(fitted, loras, strict=True) if strength for target in one.targets}
    return {
        name.removeprefix(CORE_PREFIX)
        for name, patches in patcher.patches.items()
        if any(patch[0] for patch in patches)
    }


def tell_distillation(notes: Notes, avatar: AvatarModel, changed: set[str], source: object, bundle: bool) -> None:
    """Says it when the model seems to lack Live Avatar's distillation LoRA, and where there is one.

    `changed`: see `changed_weights`; `source`: the model's file or folder, or a connected MODEL; `bundle`:
    whether it is a whole folder, which brings its own LoRA if it needs one that is not the published one.
    """
    from liveavatar_runtime.checkpoint.detect import expected_shapes
    from liveavatar_runtime.checkpoint.lora_search import FILE, SOURCE, distils, is_published_size, look_alikes

    if avatar.loaded is not None and avatar.patcher.injections:
        # A LoRA that ComfyUI adds beside the layers (bypass mode) changes no weight that could be looked at.
        return
    published = is_published_size(avatar.config)
    shapes = expected_shapes(avatar.config)
    if distils(changed, shapes) or (bundle and not published):
        return
    found = look_alikes(lora_paths(), shapes)
    if not found and not published:
        return
    what = "No LoRA is applied" if not changed else "None of the LoRAs applied is Live Avatar's distillation LoRA"
    if isinstance(source, Path) and LIVE_AVATAR_NAME.search(source.name):
        notes.tell(f"{what}; the name {source.name} says that Live Avatar's is merged into the weights.")
        return
    choose = (
        f"choose {' or '.join(found)} in lora"
        if found
        else f"get {FILE} from {SOURCE}, put it into models/loras and choose it in lora"
    )
    notes.warn(
        f"{what}: without the distillation, 4 steps give poor pictures; {choose}. "
        "Only if it is merged into these weights already, nothing is missing."
    )
