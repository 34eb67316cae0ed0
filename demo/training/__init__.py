"""Trains the embedded demo model: procedural talking portraits, a tiny VAE and a tiny transformer of the real kind."""
