"""Number formats in which workers load models."""

import torch

PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""auto is the file's, bf16 for fp32 files, and fp32 on the processor."""
