"""Live Avatar in plain PyTorch: model, streaming VAE, audio features, sampling. Never imports ComfyUI."""

VERSION = "0.1.0"
"""The pack's release; `liveavatar_workers` works with the same one only."""
