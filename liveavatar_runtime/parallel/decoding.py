"""What ComfyUI and the rank that decodes say to each other, by way of rank 0.

A video is one session, told apart by its number: OPEN with the latents before the first block, then DECODE for each
block, which FRAMES answers in the same order, and CLOSE. A new session, or the end of the connection, ends the one
before. REFUSED tells that an input was wrong and ends the session.
"""

OPEN, DECODE, CLOSE = "decode_open", "decode", "decode_close"
FRAMES, REFUSED = "frames", "decode_refused"
REQUESTS, ANSWERS = (OPEN, DECODE, CLOSE), (FRAMES, REFUSED)

ADDRESS_KEY, FACTS_KEY = "decoder/address", "decoder/facts"
"""In the store: where rank 0 waits for the rank that decodes, [host, port]; and what ComfyUI is told about it."""
MESSAGE_BYTES = 2**31
"""Largest message between the two; frames of a block at 1280x720 in float32 are 133 MB."""
WAITING = 8
"""Requests that the rank holds before it stops reading. ComfyUI has at most three blocks under way."""
