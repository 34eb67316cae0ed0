"""ComfyUI-LiveAvatar: a talking-avatar video of any length from one picture, one voice track and a prompt."""

from .nodes import LiveAvatarExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> LiveAvatarExtension:
    return LiveAvatarExtension()
