"""Who samples: one device, or a pipeline of them, in this process."""
