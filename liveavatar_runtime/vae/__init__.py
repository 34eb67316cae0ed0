"""The Wan 2.1 video VAE with streaming encode and decode."""
