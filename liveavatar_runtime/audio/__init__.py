"""Voice to features: wav2vec2 and the alignment of its 50 Hz features to video frames."""
