"""The latent space that the transformer was trained in: that of the Wan 2.1 VAE.

Over time a latent frame is `duration.FRAMES_PER_LATENT` video frames.
"""

CHANNELS = 16
STRIDE = 8
"""Pixels of a latent's side."""
PATCH = (1, 2, 2)
"""Latent frames, rows and columns of a token."""
TOKEN_SIDE = STRIDE * PATCH[-1]
"""Pixels of a token's side: sides of pictures are multiples of it."""
MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Of the VAE's values, by channel; the transformer works on (value - mean) / std."""
