"""What ComfyUI's process runs: groups that it starts or connects to, and the work that it gives them."""
