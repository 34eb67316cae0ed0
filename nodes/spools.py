"""Finished Clips (Spools): lists, shows and clears the finished clips that are kept on the disk."""

from comfy_api.latest import io, ui

from ..comfy_bridge.notes import Notes
from ..comfy_bridge.spool_folder import store
from ..comfy_bridge.spool_list import CLEAR, LIST, pictures_of, report
from ..comfy_bridge.validation import check_number, verdict
from .search_words import search_words
from .types import CATEGORY


class AvatarSpools(io.ComfyNode):
    """Shows what DiT Sampler keeps of every video, or removes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_Spools",
            display_name="Finished Clips (Spools)",
            category=CATEGORY,
            description="Lists the finished clips that DiT Sampler keeps on the disk, or clears them.",
            search_aliases=search_words("LiveAvatar_Spools"),
            inputs=[
                io.Combo.Input(
                    "action",
                    options=[LIST, CLEAR],
                    default=LIST,
                    tooltip="list shows them; clear removes them and shows what is left.",
                ),
                io.Float.Input(
                    "unused_days",
                    default=0.0,
                    min=0.0,
                    max=3650.0,
                    step=0.5,
                    tooltip="Clear only videos that were not used for this many days; 0 clears all that are not in "
                    "use.",
                ),
                io.String.Input(
                    "only",
                    default="",
                    optional=True,
                    tooltip="Clear only this video, or only this branch of it, as the list names them: 3fa9c1d2 or "
                    "3fa9c1d2/9b0e77aa. Clips that another branch needs stay. Empty: all.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[io.String.Output("text", display_name="text", tooltip="The list: clips, size, last use.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, unused_days: float | None = None) -> bool | str:
        return verdict(cls, (lambda days: check_number(cls, unused_days=days), unused_days))

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        # Never the same: what is on the disk changes between two runs.
        return float("nan")

    @classmethod
    def execute(cls, action: str, unused_days: float, only: str = "") -> io.NodeOutput:
        check_number(cls, unused_days=unused_days)
        text = report(store(), action, unused_days, only.strip())
        pictures = pictures_of(store())
        shown = None if pictures is None else ui.PreviewImage(pictures, cls=cls)
        return Notes(text).output(text, shown=shown)
