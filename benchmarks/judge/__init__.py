"""Measures the clip judge by the faults that it finds in videos of the demo model: `python -m benchmarks.judge`."""
