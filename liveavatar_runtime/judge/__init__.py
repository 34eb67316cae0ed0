"""The clip judge: what is measured of a finished video, and what of it is called a fault."""
