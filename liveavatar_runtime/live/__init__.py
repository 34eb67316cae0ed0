"""Live: a voice that comes while it is spoken, and a video of it without an end."""
