"""What nodes have put on a connected MODEL, and what becomes of it here.

Core's sampler asks a MODEL for much that the block loop has no place for: guidance, caches over steps, functions around
the whole model. Each kind is a row of `KINDS`, found by its place in the ModelPatcher; what works is marked so, all
else is told by name, with what does it here. What no row knows is told by its place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import comfy.utils
from torch import nn

from .comfy_types import Patcher, TransformerOptions
from .layer_hooks import OVERRIDE, SELF_PATCH, TEXT_PATCH, is_for_wan


@dataclass(frozen=True)
class Kind:
    """`places`: patterns of the places where it is found, or of the node that made it (`maker/...`).

    `name`: what people call it, where the thing itself does not tell which node made it. `instead`: what to do here;
    empty for what works. `sure`: whether it has no effect at all.
    """

    places: tuple[str, ...]
    name: str = ""
    instead: str = ""
    sure: bool = True


NO_GUIDANCE = "the model is sampled without guidance, so there is nothing to change"
FEW_STEPS = "the model is made for 4 steps and none can be left out; steps of Clip Scheduler may be 3"
BLOCK_LOOP = "the model runs in a block loop of its own, which does not ask for it; remove the node that set it"
WORKS = (
    # Core applies these to the modules that run, or the layers call them (`layer_hooks`).
    Kind(("object/manual_cast_dtype", "module/*", "weight/*", "injection/bypass_lora*")),
    Kind((f"transformer/{OVERRIDE}", f"patch/{SELF_PATCH}", f"patch/{TEXT_PATCH}")),
    Kind(("callback/on_clone/*", "callback/on_deepclone_multigpu/*", "callback/on_load_after/*")),
    Kind(("callback/on_detach_after/*", "callback/on_inject_model/*", "callback/on_eject_model/*")),
    # A flag beside functions that are told.
    Kind(("option/disable_cfg1_optimization",)),
)
KINDS = (
    *WORKS,
    Kind(("object/model_sampling*",), "ModelSampling", "set shift of Clip Scheduler"),
    Kind(
        ("compiled/*", "wrapper/*/torch.compile", "option/torch_compile_kwargs"),
        "TorchCompileModel",
        "switch on compile of DiT Sampler",
    ),
    Kind(("wrapper/*/easycache", "wrapper/*/lazycache", "transformer/easycache"), "EasyCache", FEW_STEPS),
    Kind(
        (
            *("wrapper/*/*cache*", "maker/*cache*"),
            *(f"transformer/{key}" for key in ("*teacache*", "*fbcache*", "cache_device", "use_ret_steps")),
            *(f"transformer/{key}" for key in ("rel_l1_thresh", "coefficients", "max_skip_steps")),
        ),
        "TeaCache",
        FEW_STEPS,
    ),
    Kind(
        ("object/*.cross_attn.forward", "*/nag*", "*_nag*", "maker/*nag"),
        "NAG",
        NO_GUIDANCE,
    ),
    Kind(("option/sampler_*", "maker/*skiplayer*", "maker/*slg*"), "a guidance (CFG) function", NO_GUIDANCE),
    Kind(
        ("option/context_handler", "wrapper/*/*context*"),
        "Context Windows",
        "set num_clip of Clip Scheduler, any length is made clip by clip",
    ),
    Kind(("option/multigpu*", "models/multigpu"), "MultiGPU", "set executor and devices of Load Avatar Model"),
    Kind(("transformer/rope_options",), "RoPE scaling", "positions are those that the model was trained with"),
    Kind(("option/denoise_mask_function",), "a denoise mask", "every block is made as a whole"),
    Kind(("object/latent_format",), "a latent format", "latents are those of the Wan 2.1 VAE"),
    Kind(("replace/dit/*", "patch/double_block"), "", "it works on whole videos, and the model runs block by block"),
    Kind(("replace/*", "patch/*"), "", "it is made for models of another kind, no Wan model asks for it"),
    Kind(("injection/*",), "", BLOCK_LOOP, sure=False),
)


@dataclass(frozen=True)
class Found:
    """Something on a MODEL: its place, and what is there."""

    place: str
    value: object = None

    @property
    def kind(self) -> Kind:
        names = self.place.lower(), f"maker/{self.maker.lower()}"
        known = (kind for kind in KINDS if any(fnmatchcase(name, p) for p in kind.places for name in names))
        return next(known, Kind((), f"a patch ({self.place})", BLOCK_LOOP))

    @property
    def maker(self) -> str:
        """The class of the node that made it, of a function or an object of a class that was defined in one."""
        code = getattr(self.value, "__qualname__", type(self.value).__qualname__)
        node, inside, _ = code.partition(".<locals>")
        return node.split(".")[0] if inside and "." in node else ""


def without_effect(patcher: Patcher) -> list[str]:
    """Sentences for the user about what on the MODEL changes nothing here; one for each thing to do instead."""
    names: dict[Kind, dict[str, None]] = {}
    for found in things_on(patcher):
        if found.kind.instead:
            unnamed = "" if found.kind.name else f"a patch ({found.place})"
            names.setdefault(found.kind, {})[found.maker or unnamed] = None
    sentences: dict[tuple[str, bool], list[str]] = {}
    for kind, some in names.items():
        # A kind's own name only where none of its things tells a node.
        told = [name for name in some if name] or [kind.name]
        sentences.setdefault((kind.instead, kind.sure), []).extend(told)
    return [
        f"base_model: {', '.join(dict.fromkeys(some))} {'has' if sure else 'may have'} no effect here: {instead}."
        for (instead, sure), some in sentences.items()
    ]


def deciding(patcher: Patcher) -> Iterator[Found]:
    """What on the MODEL may change the latents, beside the weights, their patches and the dtype."""
    works = (found for found in things_on(patcher) if found.kind in WORKS or not found.kind.sure)
    return (found for found in works if found.place != "object/manual_cast_dtype")


def things_on(patcher: Patcher) -> Iterator[Found]:
    """All that a ModelPatcher has beside its model and its weights' patches, by place."""
    options: Mapping[str, object] = patcher.model_options
    known = patcher.model_options.get("transformer_options", TransformerOptions())
    transformer: Mapping[str, object] = known
    for name, value in patcher.object_patches.items():
        yield Found(_place_of_object(patcher, name, value), value)
    for name, functions in patcher.weight_wrapper_patches.items():
        yield from _each(f"weight/{name}", functions)
    for what, sources in (
        ("wrapper", (patcher.wrappers, known.get("wrappers", {}))),
        ("callback", (patcher.callbacks, known.get("callbacks", {}))),
    ):
        for source in sources:
            for when, by_key in source.items():
                for key, functions in by_key.items():
                    yield from _each(f"{what}/{when}/{key}", functions)
    for what, named in (
        ("injection", patcher.injections),
        ("models", patcher.additional_models),
        ("hooks", {str(hook): True for hook in patcher.hook_patches}),
        ("option", {name: value for name, value in options.items() if name != "transformer_options"}),
        ("transformer", {name: value for name, value in transformer.items() if name not in _NESTED}),
    ):
        for name, value in named.items():
            yield from _each(f"{what}/{name}", value)
    for name, functions in known.get("patches", {}).items():
        for function in functions:
            usable = name not in (SELF_PATCH, TEXT_PATCH) or is_for_wan(function)
            yield Found(f"patch/{name}" if usable else f"patch/other {name}", function)
    for name, functions in known.get("patches_replace", {}).items():
        for block, function in functions.items():
            yield Found(f"replace/{name}/{block[0] if isinstance(block, tuple) else block}", function)


_NESTED = {"wrappers", "callbacks", "patches", "patches_replace"}


def _each(place: str, values: object) -> Iterator[Found]:
    """One for each of several, none for nothing."""
    several: Iterable[object] = values if isinstance(values, (list, tuple)) else (values,)
    return (Found(place, value) for value in several if value is not None and value is not False)


def _place_of_object(patcher: Patcher, name: str, value: object) -> str:
    if hasattr(value, "_orig_mod"):
        return f"compiled/{name}"
    if name.startswith("diffusion_model."):
        # The block loop calls single layers; what holds layers is only looked into.
        module = comfy.utils.get_attr(patcher.model, name.removesuffix(".forward"))
        if isinstance(module, nn.Module) and not list(module.children()):
            return f"module/{name}"
    return "object/" + re.sub(r"\.\d+\.", ".*.", name)
