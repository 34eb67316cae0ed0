"""Finished clips and states on the disk, and the stream that is sampled and continued through them."""
