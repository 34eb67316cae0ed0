"""Duration arithmetic; memory and speed prediction."""
