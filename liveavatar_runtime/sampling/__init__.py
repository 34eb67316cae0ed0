"""Plan, schedule, evaluator and latent stream."""
