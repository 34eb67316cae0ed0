"""Plan, schedule, block loop and latent stream."""
