"""Pictures as other packs give them."""

import torch


class OddPicture:
    """A plain picture [1, size, size, 3] of one grey."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("IMAGE",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"size": ("INT", {"default": 64, "min": 1, "max": 4096})}}

    def make(self, size: int):
        return (torch.full((1, size, size, 3), 0.5),)


NODE_CLASS_MAPPINGS = {"OddPicture": OddPicture}
