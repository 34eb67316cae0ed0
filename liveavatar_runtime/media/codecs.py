"""What a video file can be written as: codecs, pixel formats, the kind of file each goes into."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from ..errors import InputError

# Who watches while the file grows sees every frame as soon as the encoder gives it, which holds back its lookahead and
# one. Without any lookahead x264 makes files of up to three times the size, of more than one hardly smaller ones.
FRAGMENT_FRAMES = 1
LOOKAHEAD_FRAMES = 1
HEVC_LOOKAHEAD_FRAMES = 4


@dataclass(frozen=True)
class FileKind:
    """A kind of file: FFmpeg's muxer, the ending, and the codec of the sound."""

    muxer: str
    extension: str
    sound: str

    def growing_options(self, fps: Fraction, block_frames: int) -> dict[str, str]:
        """Options of a file that reaches the disk piece by piece, so that it plays however its program ends.

        `max_interleave_delta`: pictures wait for their sound, but not long, because the sound may be over.
        `delay_moov`: the edit list that hides the AAC priming, so that sound and picture start together, needs the
        first packets. `use_metadata_tags`: keep metadata of any name.
        """
        fragment = (FRAGMENT_FRAMES - Fraction(1, 2)) / fps
        options = {"flush_packets": "1", "max_interleave_delta": str(int(block_frames / fps * 1_000_000))}
        if self.muxer == "mp4":
            movflags = "delay_moov+default_base_moof+frag_keyframe+use_metadata_tags"
            return {**options, "movflags": movflags, "frag_duration": str(int(fragment * 1_000_000))}
        return {**options, "cluster_time_limit": str(int(fragment * 1000))}

    def finished_options(self) -> dict[str, str]:
        """Options of a file that is written in one go."""
        return {"movflags": "faststart+use_metadata_tags"} if self.muxer == "mp4" else {}


MP4 = FileKind("mp4", "mp4", "aac")
WEBM = FileKind("webm", "webm", "opus")
MATROSKA = FileKind("matroska", "mkv", "flac")


@dataclass(frozen=True)
class PixelFormat:
    """How pictures are stored: FFmpeg's name, bits of a value, whether it is RGB, which loses nothing, and whether
    there is alpha (straight)."""

    name: str
    bits: int = 8
    is_rgb: bool = False
    has_alpha: bool = False


PIXEL_FORMATS: dict[str, PixelFormat] = {
    "yuv420p": PixelFormat("yuv420p"),
    "yuv444p": PixelFormat("yuv444p"),
    "yuv420p10": PixelFormat("yuv420p10le", 10),
    "yuv444p10": PixelFormat("yuv444p10le", 10),
    # What FFV1 calls 8 bit RGB.
    "rgb": PixelFormat("bgr0", 8, True),
    "yuva420p": PixelFormat("yuva420p", has_alpha=True),
    "rgba": PixelFormat("bgra", 8, True, True),
}


@dataclass(frozen=True)
class VideoCodec:
    """How one codec is written. A lower crf is better and bigger, both ends of the range are allowed; a lossless codec
    has none. The first pixel format is the default, with alpha the first that has it. `tag` names the codec in the file
    where FFmpeg's own choice is one that players refuse."""

    encoder: str
    kind: FileKind
    pixel_formats: tuple[str, ...]
    crf_range: tuple[int, int] | None
    default_crf: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None


# Everywhere: no B-frames, so that the first picture has time 0 in every player and no frame waits for a later block;
# and no thread for each frame, which would hold back as many frames.
CODECS: dict[str, VideoCodec] = {
    "h264": VideoCodec(
        encoder="libx264",
        kind=MP4,
        pixel_formats=("yuv420p", "yuv444p", "yuv420p10", "yuv444p10"),
        crf_range=(0, 51),
        default_crf=18,
        options={
            "bf": "0",
            "rc-lookahead": str(LOOKAHEAD_FRAMES),
            "threads": "4",
            "x264-params": "sync-lookahead=0:sliced-threads=1",
        },
    ),
    "hevc": VideoCodec(
        encoder="libx265",
        kind=MP4,
        pixel_formats=("yuv420p", "yuv444p", "yuv420p10", "yuv444p10"),
        crf_range=(0, 51),
        default_crf=20,
        options={"x265-params": f"bframes=0:rc-lookahead={HEVC_LOOKAHEAD_FRAMES}:frame-threads=1:log-level=error"},
        tag="hvc1",
    ),
    "vp9": VideoCodec(
        encoder="libvpx-vp9",
        kind=WEBM,
        pixel_formats=("yuv420p", "yuv444p", "yuva420p"),
        crf_range=(0, 63),
        default_crf=24,
        options={"b": "0", "lag-in-frames": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    "av1": VideoCodec(
        encoder="libsvtav1",
        kind=MP4,
        pixel_formats=("yuv420p", "yuv420p10"),
        crf_range=(0, 63),
        default_crf=26,
        options={"preset": "8", "svtav1-params": "pred-struct=1:lookahead=0"},
    ),
    "ffv1": VideoCodec(
        encoder="ffv1",
        kind=MATROSKA,
        pixel_formats=("rgb", "yuv420p", "yuv444p", "yuv420p10", "yuv444p10", "rgba"),
        crf_range=None,
        options={"level": "3", "slices": "4", "slicecrc": "1"},
    ),
}
AUTO = "auto"


@dataclass(frozen=True)
class VideoFormat:
    """A checked choice of codec, pixel format and crf; crf is None for a lossless codec."""

    codec: VideoCodec
    pixels: PixelFormat
    crf: int | None

    @property
    def extension(self) -> str:
        return self.codec.kind.extension

    @property
    def encoder_options(self) -> dict[str, str]:
        return dict(self.codec.options) if self.crf is None else {"crf": str(self.crf), **self.codec.options}


def video_format(
    codec: str = "h264", pixel_format: str = AUTO, crf: int | None = None, has_alpha: bool = False
) -> VideoFormat:
    """The format of these names; "auto" and None stand for the codec's defaults. has_alpha: the pictures have it.

    Raises InputError for names that do not exist, a crf out of range and combinations that the codec, or this
    machine's build of its encoder, does not have; also for alpha that the format cannot hold.
    """
    if codec not in CODECS:
        raise InputError(f"The video codec is {codec!r}; available are {', '.join(CODECS)}.")
    settings = CODECS[codec]
    _check_crf(codec, settings, crf)
    if has_alpha:
        pixel_format = _with_alpha(codec, pixel_format)
    elif pixel_format == AUTO:
        pixel_format = settings.pixel_formats[0]
    if pixel_format not in settings.pixel_formats:
        raise InputError(
            f"The pixel format is {pixel_format!r}; {codec} takes {AUTO}, {', '.join(settings.pixel_formats)}. Choose "
            "one of these, or another codec."
        )
    chosen = PIXEL_FORMATS[pixel_format]
    _check_encoder(codec, settings.encoder, chosen)
    return VideoFormat(
        settings, chosen, None if settings.crf_range is None else settings.default_crf if crf is None else crf
    )


def _with_alpha(codec: str, pixel_format: str) -> str:
    """A format of the codec that holds alpha, for the one that was chosen."""
    fitting = _formats_with_alpha(codec)
    if pixel_format == AUTO and fitting:
        return fitting[0]
    if pixel_format in fitting or (fitting and pixel_format not in CODECS[codec].pixel_formats):
        return pixel_format
    others = [f"codec {name} ({CODECS[name].kind.extension})" for name in CODECS if _formats_with_alpha(name)]
    chosen = f"{codec} with pixel_format {pixel_format}"
    own = [f"pixel_format {AUTO} or {' or '.join(fitting)}"] if fitting else []
    raise InputError(
        f"The finished frames are transparent, and {chosen} cannot hold that. Choose {' or '.join(own or others)}, or "
        "a background that is not transparent."
    )


def _formats_with_alpha(codec: str) -> list[str]:
    return [name for name in CODECS[codec].pixel_formats if PIXEL_FORMATS[name].has_alpha]


def _check_crf(codec: str, settings: VideoCodec, crf: int | None) -> None:
    if settings.crf_range is None or crf is None:
        return
    low, high = settings.crf_range
    if not low <= crf <= high:
        raise InputError(
            f"crf is {crf}; {codec} takes {low} (best, biggest) to {high}. {settings.default_crf} is the default."
        )


def _check_encoder(codec: str, encoder: str, pixels: PixelFormat) -> None:
    import av
    from av.codec.codec import Codec, UnknownCodecError

    try:
        formats = Codec(encoder, "w").video_formats or []
    except UnknownCodecError as error:
        there = ", ".join(name for name, other in CODECS.items() if other.encoder in av.codecs_available)
        raise InputError(
            f"This PyAV has no encoder {encoder}, which {codec} needs; it can write {there or 'none of the codecs'}. "
            "Choose another codec, or install PyAV's own wheel (pip install --force-reinstall av)."
        ) from error
    if formats and pixels.name not in [known.name for known in formats]:
        raise InputError(
            f"The {encoder} of this PyAV cannot write {pixels.name}; it takes "
            f"{', '.join(known.name for known in formats)}. Choose another pixel format."
        )
