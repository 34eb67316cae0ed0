"""Processes and machines: groups of workers, and what ComfyUI and they say to each other; needs the runtime."""

from liveavatar_runtime import VERSION as RUNTIME_VERSION

from .version import VERSION

if RUNTIME_VERSION != VERSION:
    raise ImportError(
        f"liveavatar_workers is version {VERSION} and ComfyUI-LiveAvatar is version {RUNTIME_VERSION}; install the "
        "same version of both"
    )
