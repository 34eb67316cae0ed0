"""How fast the pack is beside its peers, in one process: `python -m benchmarks.speed`."""
