"""LoRA files: reading what they change, fitting it to a model, handing it to ComfyUI's core or merging it.

`lora_names.py` knows the namings, `lora_kinds.py` the kinds of change, `lora_scale.py` how strong they are meant.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..reading import read_json, readable
from ..texts import first_names
from .bundle import MODEL_PATTERN
from .detect import describe_contents
from .lora_kinds import BOFT, DIFFERENCE, LOW_RANK, OFT, REPLACEMENT, Kind, adapter_kind
from .lora_names import MODULATION, ModuleNames, Place, Shapes, places, split_name
from .lora_scale import STORED, UNSAID, PeftTable, Scale, live_avatar_modules, peft_table, unsaid_scale
from .safetensors_io import read_weight_file

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model"
CORE_PREFIX = "diffusion_model."
# What core calls a part, where the runtime's name is another one.
CORE_PARTS = {
    "down": "lora_down.weight", "up": "lora_up.weight",
    "a1": "a1.weight", "a2": "a2.weight", "b1": "b1.weight", "b2": "b2.weight",
}  # fmt: skip
NUMBERS = ("alpha", "rescale")
"""Parts that may be single numbers."""
NAMED = 5
"""Modules that a message names."""
NOT_IN_MODEL, NOT_UNDERSTOOD = "not in this model", "not understood"


@dataclass(frozen=True)
class LoraFile:
    """What a file holds, before it is fitted to a model: the parts of each module by the module's written name.

    `adapters`: the adapter's name, where PEFT wrote one. `ignored`: tensors that are no part of any LoRA.
    """

    path: Path | str
    modules: Mapping[str, Mapping[str, Tensor]]
    adapters: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    table: PeftTable = PeftTable()


@dataclass(frozen=True, eq=False)
class Change:
    """One change of one weight of the model: `parts` as `kind` needs them, times `scale`; `written` is for messages."""

    kind: Kind
    written: str
    target: str
    parts: Mapping[str, Tensor]
    scale: Scale

    @property
    def decomposes(self) -> bool:
        """Whether it is a DoRA: it also sets the lengths of the weight's rows or columns."""
        return "dora_scale" in self.parts

    @property
    def merges(self) -> bool:
        """Whether the runtime can apply it without core."""
        return self.kind in (DIFFERENCE, REPLACEMENT) or (self.kind.change is not None and not self.decomposes)

    @property
    def kind_name(self) -> str:
        return (
            ("DoRA" if self.kind is LOW_RANK else f"{self.kind.name} with DoRA") if self.decomposes else self.kind.name
        )


@dataclass(frozen=True)
class LeftOut:
    """A module or a part of one that is not applied, as it is written, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FittedLora:
    """What a LoRA changes in a model, and what of it does not fit. `written`: all modules of the file."""

    path: Path | str
    changes: tuple[Change, ...]
    left_out: tuple[LeftOut, ...]
    written: tuple[str, ...]

    @property
    def applied(self) -> int:
        """Modules of the file that are applied with everything it holds for them."""
        incomplete = {one.name for one in self.left_out}
        changed = {change.written for change in self.changes}
        return sum(
            name in changed and not any(out == name or out.startswith(f"{name}.") for out in incomplete)
            for name in self.written
        )

    @property
    def targets(self) -> set[str]:
        """Names of the model's weights that change."""
        return {change.target for change in self.changes}

    def by_target(self) -> dict[str, list[Change]]:
        """Weight name -> its changes, in the file's order."""
        changes: dict[str, list[Change]] = {}
        for change in self.changes:
            changes.setdefault(change.target, []).append(change)
        return changes

    def without(self, targets: Iterable[str], reason: str) -> "FittedLora":
        """The same with the changes of these weights left out."""
        gone = set(targets)
        kept = tuple(change for change in self.changes if change.target not in gone)
        lost = tuple(LeftOut(change.written, reason) for change in self.changes if change.target in gone)
        return FittedLora(self.path, kept, self.left_out + lost, self.written)

    def for_core(self) -> list[dict[str, Tensor]]:
        """Tensors in the names that ComfyUI's LoRA loading understands.

        Core takes one change of a weight from a file, so further ones come in tables of their own.
        """
        tables: list[dict[str, Tensor]] = []
        taken: list[set[str]] = []
        for change in self.changes:
            free = next((number for number, targets in enumerate(taken) if change.target not in targets), len(taken))
            if free == len(taken):
                tables.append({})
                taken.append(set())
            taken[free].add(change.target)
            tables[free] |= _core_tensors(change)
        return tables

    def describe(self, strength: float) -> str:
        """One line: file, strength, scale and why, kinds other than plain LoRA, modules applied."""
        scaled = sorted({change.scale.value for change in self.changes if change.kind.dim(change.parts) is not None})
        reasons = dict.fromkeys(change.scale.reason for change in self.changes if change.kind.dim(change.parts))
        kinds = dict.fromkeys(c.kind_name for c in self.changes if c.kind is not LOW_RANK or c.decomposes)
        texts = [f"{Path(self.path).name}: strength {strength:g}"]
        if scaled:
            span = f"{scaled[0]:g}" if len(scaled) == 1 else f"{scaled[0]:g} to {scaled[-1]:g}"
            texts.append(f"scale {span} ({'; '.join(reasons)})")
        texts.append(f"{self.applied} of {len(self.written)} modules" + (f" ({', '.join(kinds)})" if kinds else ""))
        return ", ".join(texts)

    def shortfall(self) -> str | None:
        """What is left out and why, by name, for the user; None when everything is applied."""
        if not self.left_out:
            return None
        by_reason: dict[str, list[str]] = {}
        for one in self.left_out:
            by_reason.setdefault(one.reason, []).append(one.name)
        parts = [f"{first_names(names)} ({reason})" for reason, names in by_reason.items()]
        more = f"; and {len(parts) - NAMED} more sorts" if len(parts) > NAMED else ""
        return (
            f"{Path(self.path).name} is only partly applied: {self.applied} of {len(self.written)} modules. "
            f"Left out: {'; '.join(parts[:NAMED])}{more}. A LoRA made for Wan2.2-S2V-14B fits as a whole."
        )


def open_lora(path: str | Path, *, mapped: bool = True) -> LoraFile:
    """What a LoRA file holds; the `adapter_config.json` that PEFT saved with it supplies alpha when the file does not.

    `mapped`: see `open_checkpoint`. Raises CheckpointError when it cannot be read or is no LoRA.
    """
    path = Path(path)
    with readable(path, "a LoRA"):
        tensors, metadata = read_weight_file(path, mapped=mapped)
        beside = path.parent / PEFT_CONFIG
        if beside.is_file() and _saved_together(path):
            metadata = {"lora_config": json.dumps(read_json(beside)), **metadata}
        lora = read_lora(tensors, metadata, path)
    if not any(adapter_kind(parts) or _differences(parts) for parts in lora.modules.values()):
        raise CheckpointError(
            f"{path} is not a LoRA: it looks like {describe_contents(tensors)}. "
            "Give liveavatar.safetensors or another LoRA of Wan2.2-S2V-14B; a full model belongs in the model input."
        )
    return lora


def read_lora(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, path: Path | str = "given"
) -> LoraFile:
    """What a LoRA state dict holds; `path` names it in messages. Raises CheckpointError when it holds two."""
    modules: dict[str, dict[str, Tensor]] = {}
    adapters: dict[str, str] = {}
    ignored = []
    for name, tensor in tensors.items():
        split = split_name(name)
        if split is None:
            ignored.append(name)
            continue
        parts = modules.setdefault(split.module, {})
        if tensor.ndim == 0 and split.part not in NUMBERS:
            raise CheckpointError(f"the LoRA {path}: {name} is a single number, where a matrix or vector must be")
        if split.part in parts:
            raise CheckpointError(
                f"the LoRA {path} holds two adapters for {split.module} ({name} is the second); "
                "save the one that is meant in a file of its own"
            )
        parts[split.part] = tensor
        if split.adapter:
            adapters[split.module] = split.adapter
    return LoraFile(path, modules, adapters, tuple(ignored), peft_table(metadata or {}))


def fit_lora(lora: LoraFile, shapes: Shapes, alpha: float | None = None) -> FittedLora:
    """The changes that fit a model, whose weights have `shapes`; `alpha` replaces what the file says.

    Raises CheckpointError when nothing fits.
    """
    with readable(lora.path, "a LoRA"):
        return _fitted(lora, shapes, alpha)


def _fitted(lora: LoraFile, shapes: Shapes, alpha: float | None) -> FittedLora:
    where = places(lora.modules, ModuleNames(shapes), lora.path)
    is_live_avatar = low_rank_modules(lora, where, shapes) == live_avatar_modules(shapes)
    whole = _Whole(lora, shapes, alpha, is_live_avatar)
    changes: list[Change] = []
    left_out = [LeftOut(name, NOT_UNDERSTOOD) for name in lora.ignored]
    for written, parts in lora.modules.items():
        place = where.get(written)
        if place is None:
            left_out.append(LeftOut(written, NOT_IN_MODEL))
            continue
        fitted = _Module(whole, written, place)
        fitted.add(parts)
        changes += fitted.changes
        left_out += fitted.left_out
    fitted_lora = FittedLora(lora.path, tuple(changes), tuple(left_out), tuple(lora.modules))
    if not changes:
        raise CheckpointError(_nothing_fits(fitted_lora))
    return fitted_lora


def low_rank_modules(lora: LoraFile, where: Mapping[str, Place], shapes: Shapes) -> set[str]:
    """The modules with low-rank factors: by the model's name where one fits, else as they are written."""
    found = set()
    for written, parts in lora.modules.items():
        own = LOW_RANK.taken(parts)
        if own is not None:
            shape = shapes.get(f"{where[written].module}.weight") if written in where else None
            fits = shape is not None and LOW_RANK.fits(own, shape)
            found.add(where[written].module if fits else written)
    return found


@dataclass(frozen=True)
class _Whole:
    """What all modules of a file have in common: the file, the model's weights, an alpha that replaces what the file
    says, and whether it is Live Avatar's own LoRA."""

    lora: LoraFile
    shapes: Shapes
    alpha: float | None
    is_live_avatar: bool


class _Module:
    """Sorts the parts that a file holds for one module into changes and what does not fit."""

    def __init__(self, whole: _Whole, written: str, place: Place) -> None:
        self.changes: list[Change] = []
        self.left_out: list[LeftOut] = []
        self._whole, self._lora, self._written, self._place = whole, whole.lora, written, place
        module = place.module
        self._weight = module if module in whole.shapes else f"{module}.weight"

    def add(self, parts: Mapping[str, Tensor]) -> None:
        rest = dict(parts)
        scale = Scale(1.0, STORED)
        adapter = adapter_kind(parts)
        if adapter is not None:
            kind, own = adapter
            rest = {name: tensor for name, tensor in rest.items() if name not in own}
            scale = self._scale(kind, own)
            self._add_adapter(kind, own, scale)
        for part, (target, change) in _differences(rest).items():
            rest.pop(part)
            # A bias that was trained with the factors is as strong as they are.
            factor = scale.value if part == "up_bias" else 1.0
            self._add_difference(part, self._target(target), factor, change)
        self.left_out += [LeftOut(f"{self._written}.{part}", NOT_UNDERSTOOD) for part in rest]

    def _target(self, what: str) -> str:
        return self._weight if what == "weight" else f"{self._place.module}.{what}"

    def _scale(self, kind: Kind, parts: Mapping[str, Tensor]) -> Scale:
        rank = kind.dim(parts)
        if rank is None:
            return Scale(1.0, STORED)
        if rank < 1:
            raise CheckpointError(f"the LoRA {self._lora.path}: the factors of {self._written} are empty (rank 0)")
        stored = parts.get("alpha")
        told = self._lora.table.scale((self._written, self._place.module), rank)
        if self._whole.alpha is not None:
            told = self._whole.alpha / rank
        elif stored is not None and stored.numel() == 1:
            told = float(stored) / rank
        if told is not None and not math.isfinite(told):
            raise CheckpointError(
                f"the LoRA {self._lora.path}: alpha of {self._written} is not a number (NaN or infinite), so nothing "
                "tells how strong it is meant. Use another file of it."
            )
        if told is not None:
            return Scale(told, STORED)
        if kind is not LOW_RANK:
            return Scale(1.0, UNSAID)
        return unsaid_scale(self._place, self._lora.adapters.get(self._written, ""), self._whole.is_live_avatar)

    def _add_adapter(self, kind: Kind, parts: dict[str, Tensor], scale: Scale) -> None:
        shape = self._whole.shapes.get(self._weight)
        reshaped = parts.pop("reshape_weight", None)
        same_shape = reshaped is None or (shape is not None and tuple(reshaped.tolist()) == shape)
        if shape is None or not same_shape or not kind.fits(parts, shape):
            self.left_out.append(LeftOut(self._written, self._misfit(kind, parts, shape)))
            return
        magnitude = parts.pop("lora_magnitude_vector", None)
        if magnitude is not None:
            parts["dora_scale"] = magnitude.reshape(-1, *[1] * (len(shape) - 1))
        self.changes.append(Change(kind, self._written, self._weight, parts, scale))

    def _add_difference(self, part: str, target: str, factor: float, change: Tensor) -> None:
        shape = self._whole.shapes.get(target)
        if shape != tuple(change.shape):
            reason = NOT_IN_MODEL if shape is None else f"{_size(change.shape)}, the model's is {_size(shape)}"
            self.left_out.append(LeftOut(f"{self._written}.{part}", reason))
            return
        kind, name = (REPLACEMENT, "set_weight") if part == "set_weight" else (DIFFERENCE, "diff")
        values = change if factor == 1.0 else change.float() * factor
        self.changes.append(Change(kind, self._written, target, {name: values}, Scale(1.0, STORED)))

    def _misfit(self, kind: Kind, parts: Mapping[str, Tensor], shape: tuple[int, ...] | None) -> str:
        if shape is None:
            return NOT_IN_MODEL
        size = kind.size(parts)
        if size is None:
            return f"{kind.name} factors of a form that no layer of this model takes"
        made = f"{size[0]}x{size[1]}" if size[1] is not None else f"{size[0]} rows"
        return f"made for a {made} layer, the model's is {_size(shape)}"


def _differences(parts: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Parts that are added to a weight (or replace it) as they are: part -> what of the module they change."""
    targets = {
        "diff": "weight", "set_weight": "weight", "diff_b": "bias", "up_bias": "bias", "diff_m": MODULATION,
    }  # fmt: skip
    return {part: (target, parts[part]) for part, target in targets.items() if part in parts}


def _core_tensors(change: Change) -> dict[str, Tensor]:
    """With alpha written out where it scales; core's orthogonal kinds need it too, 0 for no constraint."""
    name = CORE_PREFIX + change.target.removesuffix(".weight")
    tensors = {f"{name}.{CORE_PARTS.get(part, part)}": tensor for part, tensor in change.parts.items()}
    rank = change.kind.dim(change.parts)
    if rank is not None:
        tensors[f"{name}.alpha"] = torch.tensor(change.scale.value * rank)
    elif change.kind in (OFT, BOFT):
        tensors.setdefault(f"{name}.alpha", torch.tensor(0.0))
    return tensors


def _saved_together(path: Path) -> bool:
    """Whether a PEFT configuration in the folder can only be this file's: one in models/loras is of some other."""
    others = [p for p in path.parent.glob("*.safetensors") if p != path and not fnmatch(p.name, MODEL_PATTERN)]
    return path.stem == PEFT_WEIGHTS or not others


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _nothing_fits(fitted: FittedLora) -> str:
    names = [one.name for one in fitted.left_out]
    misfits = [one for one in fitted.left_out if one.reason not in (NOT_IN_MODEL, NOT_UNDERSTOOD)]
    example = f" {misfits[0].name}: {misfits[0].reason}; the LoRA belongs to another model." if misfits else ""
    return (
        f"the LoRA {fitted.path} fits no layer of this model: none of its {len(fitted.written)} modules exists in it "
        f"in name and size ({first_names(names)}).{example} "
        "Use a LoRA made for Wan2.2-S2V-14B, such as liveavatar.safetensors."
    )
