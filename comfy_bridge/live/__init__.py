"""Live sessions in ComfyUI: their nodes' work, and the routes that pages and programs speak to."""
