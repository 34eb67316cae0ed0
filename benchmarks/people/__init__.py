"""Measures the demo of 128x128 in its pictures: `python -m benchmarks.people --bundle DIR`."""
