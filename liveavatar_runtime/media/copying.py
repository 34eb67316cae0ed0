"""Copying encoded streams from file to file."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .frames import ALPHA_FORMAT, has_alpha_beside

if TYPE_CHECKING:
    from av.container import OutputContainer


def copied_stream(target: "OutputContainer", template: Any) -> Any:
    """A stream of `target` that takes the packets of `template`, a stream of an open file."""
    from av.codec.codec import Codec, UnknownCodecError

    # PyAV looks for the encoder named like the decoder; AV1's have different names (libdav1d, libsvtav1).
    opaque: bool | None = True
    with suppress(UnknownCodecError):
        Codec(template.codec_context.codec.name, "w")
        opaque = None
    stream: Any = target.add_stream_from_template(template, opaque=opaque)
    if template.codec_context.codec_tag == "hvc1":
        # Without it FFmpeg writes "hev1", which Apple's players refuse.
        stream.codec_context.codec_tag = "hvc1"
    if has_alpha_beside(template):
        # Of which FFmpeg makes what says in Matroska that there is alpha beside the pictures.
        stream.pix_fmt = ALPHA_FORMAT
    return stream
