"""Tensor names of weight files, architecture detection, LoRA merging, bundle folders."""
