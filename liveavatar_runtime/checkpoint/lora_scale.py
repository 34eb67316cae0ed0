"""How strong a LoRA is meant: what its file stores, and what its names say when it stores nothing.

1. The module's own `alpha` / rank.
2. PEFT's configuration, in the header or in an `adapter_config.json`: `lora_alpha`, or the entry of `alpha_pattern` for
   the module, / rank, or / sqrt(rank) with `use_rslora`. The rank is that of the factors, so `rank_pattern` is in it.
3. Live Avatar's training stores no alpha and means rank / 2 ("rank 128, alpha 64"), so 0.5 for its own naming, and
   under any naming for a file whose modules are exactly those that it trains.
4. Else 1: all other programs mean alpha = rank when they do not write it.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import replaced
from ..reading import parse_json
from .lora_names import Place, Shapes

LIVE_AVATAR_SCALE = 0.5
LIVE_AVATAR_WRAPPER, LIVE_AVATAR_ADAPTER = "base_model.model", "default"
"""What Live Avatar's training writes around a module's name: `base_model.model.<module>.lora_A.default.weight`."""
# PEFT finds the layers to train by the ends of their names.
LIVE_AVATAR_TARGETS = re.compile(r"(?:^|\.)(?:[qkvo]|ffn\.[02])$")

# Expressions from a file: short, with few repeats and none of a group, as else trying one could take for ever.
LONGEST_PATTERN, LONGEST_NAME, MOST_REPEATS = 1000, 200, 3
REPEATS = re.compile(r"(?<!\\)[*+{]")
REPEATED_GROUP = re.compile(r"\)[*+{]")

METADATA_TABLES = ("lora_adapter_metadata", "lora_config")
# Whose entries count in a header that describes several models.
TRANSFORMER_TABLES = ("", "transformer", "unet", "model", "diffusion_model")

STORED = "alpha / rank"
PUBLISHED = "no alpha stored, Live Avatar's naming"
LIVE_AVATAR = "no alpha stored, Live Avatar's modules"
UNSAID = "no alpha stored"


@dataclass(frozen=True)
class Scale:
    """What a change is multiplied by beside the user's strength, and why."""

    value: float
    reason: str


@dataclass(frozen=True)
class PeftTable:
    """What PEFT's configuration says about alpha."""

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    root: bool = False

    def scale(self, names: Iterable[str], rank: int) -> float | None:
        """Of a module that has these names (as written, and the model's own); None when nothing is said."""
        alpha = self.alpha
        for pattern, value in self.patterns.items():
            if any(ends_with(pattern, name) for name in names):
                alpha = value
                break
        return None if alpha is None else alpha / (math.sqrt(rank) if self.root else rank)


def ends_with(pattern: str, name: str) -> bool:
    """Whether a name ends as a pattern of PEFT says, which is an expression. `check_pattern` comes before."""
    return re.match(rf"(?:.*\.)?(?:{pattern})$", name[-LONGEST_NAME:]) is not None


def check_pattern(pattern: str) -> str:
    """The pattern itself. Raises ValueError for one that is no expression, or that could take for ever to try."""
    repeats = REPEATS.findall(pattern)
    if len(pattern) > LONGEST_PATTERN or len(repeats) > MOST_REPEATS or REPEATED_GROUP.search(pattern):
        raise ValueError(f"the alpha_pattern {pattern[:80]!r} is more than the names of layers need")
    with replaced(
        (re.error, RecursionError, OverflowError),
        lambda error: ValueError(f"the alpha_pattern {pattern!r} is no expression: {error}"),
    ):
        re.compile(pattern)
    return pattern


def peft_table(metadata: Mapping[str, str]) -> PeftTable:
    """From the texts of a safetensors header; an empty one when they say nothing about alpha.

    Raises ValueError for texts that are no JSON, or no configuration.
    """
    values: dict[str, Any] = {"lora_alpha": metadata["lora_alpha"]} if "lora_alpha" in metadata else {}
    for key in METADATA_TABLES:
        content = parse_json(metadata[key]) if key in metadata else {}
        if isinstance(content, dict) and content:
            values = _of_transformer(content)
            break
    # PEFT's LoHa and LoKr call it alpha.
    alpha, patterns = values.get("lora_alpha", values.get("alpha")), values.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"alpha_pattern is {patterns!r}, not a table of numbers by name")
    return PeftTable(
        None if alpha is None else _number(alpha),
        {check_pattern(name): _number(value) for name, value in patterns.items()},
        bool(values.get("use_rslora")),
    )


def _number(value: Any) -> float:
    """Raises ValueError for what is no finite number."""
    number = float(value) if isinstance(value, int | float | str) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"alpha is {value!r}, which is no number")
    return number


def live_avatar_modules(shapes: Shapes) -> set[str]:
    """The linear layers of a model that Live Avatar's training changes, those of the audio injector among them."""
    linear = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}
    return {module for module in linear if LIVE_AVATAR_TARGETS.search(module)}


def unsaid_scale(place: Place, adapter: str, is_live_avatar: bool) -> Scale:
    """Without alpha; `is_live_avatar`: the file's modules are those of `live_avatar_modules`."""
    if place.wrapper == LIVE_AVATAR_WRAPPER and adapter == LIVE_AVATAR_ADAPTER:
        return Scale(LIVE_AVATAR_SCALE, PUBLISHED)
    return Scale(LIVE_AVATAR_SCALE, LIVE_AVATAR) if is_live_avatar else Scale(1.0, UNSAID)


def _of_transformer(content: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer's entries of a table with keys such as `transformer.lora_alpha`, without that name."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        owner, _, key = name.rpartition(".")
        tables.setdefault(owner, {})[key] = value
    known = [tables[owner] for owner in TRANSFORMER_TABLES if owner in tables]
    return known[0] if known else next(iter(tables.values()))
