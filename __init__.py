"""ComfyUI-LiveAvatar: a talking-avatar video of any length from one picture, one voice track and a prompt."""

from .runtime_package import provide_runtime

provide_runtime()

from .nodes import LiveAvatarExtension  # noqa: E402 - the nodes import the runtime by its name

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> LiveAvatarExtension:
    return LiveAvatarExtension()
