"""How messages travel: their encoding, and connections by ZeroMQ with CURVE keys."""
