"""The causal Wan2.2-S2V diffusion transformer."""
