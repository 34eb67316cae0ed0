"""People that the demo of 128x128 knows: who they are, how they move, what they look like."""
