"""Steps on decoded frames before they are written: larger, other colours, another background, more of them."""
