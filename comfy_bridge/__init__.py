"""All that touches ComfyUI, but for the nodes' own interface."""
