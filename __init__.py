"""ComfyUI-LiveAvatar: a talking-avatar video of any length from one picture, one voice track and a prompt."""

from .packages import provide_packages

provide_packages()

from .nodes import LiveAvatarExtension  # noqa: E402 - the nodes import them by their names

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> LiveAvatarExtension:
    return LiveAvatarExtension()
