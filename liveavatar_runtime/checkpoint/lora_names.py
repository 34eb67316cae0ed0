"""Names in LoRA files: which module of the model a tensor changes, and which part of the change it is.

Every program writes `<wrapper><module><part>`, as in `base_model.model.` + `blocks.0.self_attn.q` + `.lora_A.weight`.
The parts are a closed set. The wrapper is whatever stands before the name of a module that the model has, so programs
that nobody here knows are read too. kohya writes `_` for every `.` of wrapper and module.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

# <module> . lora_A [. adapter name] [. weight]; down and up are the other names of A and B, `lora.` the oldest form.
FACTOR = re.compile(
    r"^(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<factor>A|B|down|up|mid)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)\w+))?(?:\.(?P<leaf>weight|bias))?$"
)
OTHER_PART = re.compile(
    r"^(?P<module>.+)\.(?P<part>alpha|dora_scale|lora_magnitude_vector|diff|diff_b|diff_m|w_norm|b_norm|set_weight"
    r"|reshape_weight|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|oft_blocks|rescale|[ab][12](?=\.weight$))"
    r"(?:\.(?P<adapter>(?!weight$)\w+))?(?:\.weight)?$"
)
SIDES = {"A": "down", "B": "up"}
# Parts with two names.
SAME_PART = {"w_norm": "diff", "b_norm": "diff_b"}

# Wrappers of what a LoRA file may hold beside the transformer: never taken for the transformer's own.
OTHER_MODELS = re.compile(r"(?:^|[._])(?:te\d?|text_encoders?(?:_\d)?|clip|vae|vace)(?:[._]|$)")
MODULATION = "modulation"
# Diffusers' names of Wan's transformer (WanTransformer3DModel); what is the same in both is left out.
DIFFUSERS_TOP = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
DIFFUSERS_PARENTS = (("self_attn", "attn1"), ("cross_attn", "attn2"))
DIFFUSERS_LEAVES = {"q": ("to_q",), "k": ("to_k",), "v": ("to_v",), "o": ("to_out.0", "to_out")}
DIFFUSERS_ENDINGS = {
    ".ffn.0": ".ffn.net.0.proj", ".ffn.2": ".ffn.net.2", ".norm3": ".norm2", ".modulation": ".scale_shift_table",
}  # fmt: skip


@dataclass(frozen=True)
class PartName:
    """What a tensor's name says: the module as it is written, the part, the adapter's name where PEFT wrote one."""

    module: str
    part: str
    adapter: str


def split_name(name: str) -> PartName | None:
    """None for a tensor that is no part of a LoRA of any kind."""
    match = FACTOR.match(name)
    if match:
        part = SIDES.get(match["factor"], match["factor"])
        return PartName(match["module"], f"{part}_bias" if match["leaf"] == "bias" else part, match["adapter"] or "")
    match = OTHER_PART.match(name)
    return match and PartName(match["module"], SAME_PART.get(match["part"], match["part"]), match["adapter"] or "")


@dataclass(frozen=True)
class Place:
    """A module of the model, and what stood before its name in the file."""

    wrapper: str
    module: str


class ModuleNames:
    """The modules of one model (`shapes` of its weights) by every name that LoRA files give them."""

    def __init__(self, shapes: Shapes) -> None:
        own = {name.removesuffix(".weight") for name in shapes}
        # A part may change the modulation of a module that has no weight itself.
        own |= {name.removesuffix(f".{MODULATION}") for name in shapes if name.endswith(f".{MODULATION}")}
        self._dotted = {other: module for module in sorted(own) for other in _diffusers_names(module)}
        self._dotted |= {module: module for module in own}
        self._kohya = {name.replace(".", "_"): module for name, module in self._dotted.items()}

    def find(self, written: str) -> Place | None:
        """The module whose name is the longest end of `written`; None when the model has none of that name."""
        tokens = written.split(".")
        for start in range(len(tokens)):
            module = self._dotted.get(".".join(tokens[start:]))
            if module is not None:
                return _place(tokens[:start], ".", module)
        last = tokens[-1]
        for start in (0, *(match.end() for match in re.finditer("_", last))):
            module = self._kohya.get(last[start:])
            if module is not None:
                return _place([*tokens[:-1], *last[:start].split("_")], "_", module)
        return None


def places(written: Iterable[str], names: ModuleNames, path: object) -> dict[str, Place]:
    """Where each module of a file belongs; those that the model does not have are left out.

    When two wrappers hold the same module, the one with more modules is the transformer's. Raises CheckpointError,
    which names the file `path`, when that does not decide.
    """
    found = {name: place for name in written if (place := names.find(name)) is not None}
    sizes = Counter(place.wrapper for place in found.values())
    by_module: dict[str, list[str]] = {}
    for name, place in found.items():
        by_module.setdefault(place.module, []).append(name)
    losers: set[str] = set()
    for rivals in by_module.values():
        wrappers = {found[name].wrapper for name in rivals}
        largest = [wrapper for wrapper in wrappers if sizes[wrapper] == max(sizes[one] for one in wrappers)]
        if len(rivals) > 1 and (len(wrappers) < len(rivals) or len(largest) > 1):
            raise CheckpointError(
                f"the LoRA {path} changes one module under two names, {rivals[0]} and {rivals[1]}, so it holds two "
                "LoRAs and nothing tells which is meant; save the one for this model in a file of its own"
            )
        losers |= wrappers - set(largest)
    return {name: place for name, place in found.items() if place.wrapper not in losers}


def _place(before: list[str], separator: str, module: str) -> Place | None:
    """A number before a module's name makes it part of something else (`down_blocks.0.attentions.0.proj_out`)."""
    wrapper = separator.join(before).strip("._")
    own = not OTHER_MODELS.search(wrapper) and not any(token.isdigit() for token in before)
    return Place(wrapper, module) if own else None


def _diffusers_names(module: str) -> list[str]:
    """Every name that diffusers and trainers built on it give a module; none where they keep the original's."""
    if module in DIFFUSERS_TOP:
        return [DIFFUSERS_TOP[module]]
    if not module.startswith(("blocks.", "audio_injector.")):
        return []
    for ending, other in DIFFUSERS_ENDINGS.items():
        if module.endswith(ending):
            return [module.removesuffix(ending) + other]
    parent, _, leaf = module.rpartition(".")
    for ours, theirs in DIFFUSERS_PARENTS:
        parent = re.sub(rf"\.{ours}$", f".{theirs}", parent)
    return [name for other in DIFFUSERS_LEAVES.get(leaf, (leaf,)) if (name := f"{parent}.{other}") != module]
