"""What a node tells its user when it has run: warnings first, then facts, drawn on the node by `web/notes.js`.

ComfyUI's progress text is for what changes while a node works; it is not sent again for a cached node. These lines
travel as `ui` output, so they are there again after a cached run and after the page was loaded anew, and whoever uses
the API finds them in the history.
"""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io, ui

from .progress import log

UI_KEY = "liveavatar_notes"
"""Name of the lines among a node's `ui` outputs; `web/notes.js` reads it."""
WARNING_MARK = "⚠ "
"""In front of what differs from what was asked, or will disappoint."""

_SCHEMA_FIELDS = {field.name for field in fields(io.Schema)}
# Since ComfyUI 0.19; before, only output nodes are told about again when they are cached.
KEPT_WHEN_CACHED: dict[str, Any] = (
    {"has_intermediate_output": True} if "has_intermediate_output" in _SCHEMA_FIELDS else {}
)
"""Arguments of `io.Schema` for a node that is no output node and has notes."""


class Notes:
    """Lines for one node. Warnings say what is not as asked and what to do; they stand above all facts."""

    def __init__(self, *facts: str) -> None:
        self._warnings: list[str] = []
        self._facts: list[str] = []
        self.tell(*facts)

    def warn(self, *sentences: str | None) -> None:
        """What the user would not expect; empty texts are left out, repetitions too."""
        self._warnings += [text for text in dict.fromkeys(sentences) if text and text not in self._warnings]

    def tell(self, *facts: str | None) -> None:
        """What is worth knowing; one text may have several lines. Empty ones are left out."""
        self._facts += [line for text in facts for line in (text or "").splitlines() if line]

    @property
    def lines(self) -> list[str]:
        return [*(WARNING_MARK + text for text in self._warnings), *self._facts]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def output(self, *values: object, shown: ui.PreviewVideo | ui.PreviewImage | None = None) -> io.NodeOutput:
        """What `execute` returns: the outputs, these lines, and what else the node shows (a video or a picture)."""
        for line in self.lines:
            log.info("%s", line)
        return io.NodeOutput(*values, ui={**(shown.as_dict() if shown else {}), UI_KEY: self.lines})
