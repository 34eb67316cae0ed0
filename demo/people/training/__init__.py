"""Training of the demo of 128x128: `python -m demo.people.training`."""
