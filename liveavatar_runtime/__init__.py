"""Live Avatar in plain PyTorch: model, streaming VAE, audio features, sampling. Never imports ComfyUI."""
