"""Which prompt each evaluation reads, as a patch on the model sees it."""

import json
from hashlib import sha256
from pathlib import Path

import folder_paths


class OddTextWatch:
    """A MODEL that writes down what its first layer attends to of the text: a line for each evaluation, with a hash of
    the text's keys, in `file` of the output folder."""

    FUNCTION, RETURN_TYPES, CATEGORY = "patch", ("MODEL",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "file": ("STRING",), "tokens": ("INT", {"default": 512})}}

    def patch(self, model, file: str, tokens: int):
        clone, path = model.clone(), Path(folder_paths.get_output_directory()) / file
        path.write_text("", encoding="utf-8")

        def override(func, q, k, v, *args, **kwargs):
            options = kwargs["transformer_options"]
            # Self-attention looks at the block and what was before, of another length; the sink is at noise level 0.
            if options["block_index"] == 0 and k.shape[1] == tokens and options["sigmas"].item() > 0:
                keys = sha256(k.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]
                with path.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"keys": keys}) + "\n")
            return func(q, k, v, *args, **kwargs)

        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        return (clone,)


NODE_CLASS_MAPPINGS = {"OddTextWatch": OddTextWatch}
