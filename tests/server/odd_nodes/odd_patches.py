"""Patches on a MODEL as other packs' nodes make them."""

import sys
from pathlib import Path

import torch

# ComfyUI has looked for such packages before.
sys.path.append(str(Path(__file__).parent / "packages"))


class OddModelNode:
    """A node that changes a clone of a MODEL."""

    FUNCTION, RETURN_TYPES, CATEGORY = "patch", ("MODEL",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0})}}


class OddAttentionOverride(OddModelNode):
    """Another attention for the whole model, as nodes for SageAttention set it: here with changed keys, which shows."""

    def patch(self, model, strength):
        clone = model.clone()

        def override(func, q, k, v, *args, **kwargs):
            options = kwargs["transformer_options"]
            assert 0 <= options["block_index"] < options["total_blocks"] and 0 <= options["sigmas"].item() <= 1
            return func(q, k * strength, v, *args, **kwargs)

        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        return (clone,)


class OddTeaCache(OddModelNode):
    """Steps left out when little changes, as TeaCache's node sets it up."""

    def patch(self, model, strength):
        clone = model.clone()
        clone.model_options["transformer_options"]["rel_l1_thresh"] = strength

        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        clone.set_model_unet_function_wrapper(unet_wrapper_function)
        return (clone,)


class OddNag(OddModelNode):
    """Another forward for the text attention of some blocks, as NAG nodes give it."""

    def patch(self, model, strength):
        clone = model.clone()
        for number in range(2):
            clone.add_object_patch(f"diffusion_model.blocks.{number}.cross_attn.forward", lambda x, *_, **__: x * 0)
        return (clone,)


class OddUnknownPatch(OddModelNode):
    """An option that nobody knows."""

    def patch(self, model, strength):
        clone = model.clone()
        clone.model_options["transformer_options"]["wonder_strength"] = strength
        clone.set_model_patch_replace(torch.nn.Identity(), "dit", "double_block", 0)
        return (clone,)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (OddAttentionOverride, OddTeaCache, OddNag, OddUnknownPatch)}
