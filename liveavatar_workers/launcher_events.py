"""What the launcher tells the process that started it: one JSON object a line on its standard output."""

import msgspec

from .messages import Failure


class Listening(msgspec.Struct, tag_field="event", tag="listening"):
    """Rank 0 waits for ComfyUI at this port."""

    port: int


class Failed(msgspec.Struct, tag_field="event", tag="failed"):
    """The group is over. `ended`: exit codes of ranks, negative for a signal; `reports`: what ranks said before;
    `message`: what else is known."""

    ended: dict[int, int] = {}
    reports: list[Failure] = []
    message: str = ""


LauncherEvent = Listening | Failed
