"""Results in shapes that other packs give: lists of videos, a compiled VAE."""

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import InputImpl


class OddVideoList:
    """Files of the input folder, a name a line, as one list of VIDEOs."""

    FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST, CATEGORY = "make", ("VIDEO",), (True,), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"names": ("STRING", {"default": "", "multiline": True})}}

    def make(self, names: str):
        root = Path(folder_paths.get_input_directory())
        return ([InputImpl.VideoFromFile(str(root / name)) for name in names.split()],)


class OddCompiledVAE:
    """Both halves through torch.compile in place, as TorchCompileVAE does."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("VAE",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"vae": ("VAE",)}}

    def make(self, vae):
        for half in ("encoder", "decoder"):
            setattr(vae.first_stage_model, half, torch.compile(getattr(vae.first_stage_model, half)))
        return (vae,)


NODE_CLASS_MAPPINGS = {"OddVideoList": OddVideoList, "OddCompiledVAE": OddCompiledVAE}
