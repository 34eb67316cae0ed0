"""Executors: which device runs which evaluation when."""
