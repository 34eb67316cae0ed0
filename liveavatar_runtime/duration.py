"""All time arithmetic of the pack, in integers and exact fractions.

A video is `num_clip` clips of `infer_frames` frames, so it lasts exactly `num_clip * infer_frames / fps` seconds,
unless it is to end with the voice: then frames of the last clip are left out.
A clip is made of blocks of 12 frames (3 latent frames of 4 frames each).
The audio encoder looks at 16 kHz sound and gives 50 feature frames a second; the model was trained on features
interpolated to 30 a second, of which each video frame takes the nearest.
"""

import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from .errors import InputError

FRAMES_PER_LATENT = 4
LATENT_FRAMES_PER_BLOCK = 3
FRAMES_PER_BLOCK = FRAMES_PER_LATENT * LATENT_FRAMES_PER_BLOCK

ENCODER_SAMPLE_RATE = 16_000
ENCODER_FRAME_SAMPLES = 320
ENCODER_MIN_SAMPLES = 400
FEATURE_RATE = ENCODER_SAMPLE_RATE // ENCODER_FRAME_SAMPLES
BUCKET_RATE = 30

MIN_FPS = 1
MAX_FPS = 120
_NTSC_FAMILY = tuple(Fraction(nominal * 1000, 1001) for nominal in (24, 30, 48, 60, 120))
# 23.98 is how a widget with two decimals shows 24000/1001.
_NTSC_TOLERANCE = Fraction(1, 200)
_FPS_DENOMINATOR = 10_000
# Above every usual sample rate, so that the length of a sound stays exact.
_SECONDS_DENOMINATOR = 1_000_000
# Of every length of whole clips at a rate with up to three decimals, or of the NTSC family.
_CLIPS_DENOMINATOR = 120_000
# A unit of time in a video file: above, it is a whole frame of the fastest video.
_COARSE_UNIT = Fraction(1, 250)
MAX_SECONDS = 1_000_000
"""Longest duration that a widget takes."""
_HMS = re.compile(r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)")


def _to_fraction(value: float | int | str | Fraction, what: str) -> Fraction:
    """The exact number a user typed: 0.1 is 1/10, not its binary neighbour. Raises InputError for anything else."""
    if isinstance(value, Fraction):
        return value
    number: Fraction | None = None
    if not isinstance(value, bool):
        numerator, _, denominator = str(value).strip().partition("/")
        try:
            parts = Decimal(numerator), Decimal(denominator or "1")
            # An exponent of a billion would be a fraction of a billion digits.
            if max(abs(part.adjusted()) for part in parts) < 400:
                number = Fraction(parts[0]) / Fraction(parts[1])
        except (InvalidOperation, ValueError, OverflowError, ZeroDivisionError):
            number = None
    if number is None:
        raise InputError(f"{what} is {value!r}, which is not a finite number. Give a number such as 25 or 30000/1001.")
    return number


def parse_fps(value: float | int | str | Fraction) -> Fraction:
    """Frames a second as a small exact fraction: 16 -> 16, 12.5 -> 25/2, "30000/1001" and 29.97 -> 30000/1001.

    Decimals near a broadcast rate (23.976, 23.98, 29.97, 47.952, 59.94, 119.88) mean that rate.
    Raises InputError when the value is not a number or outside 1..120.
    """
    fps = _to_fraction(value, "fps")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise InputError(
            f"fps is {value}; allowed are {MIN_FPS} to {MAX_FPS} frames a second. 16 or 25 suit the model."
        )
    for rate in _NTSC_FAMILY:
        if abs(fps - rate) <= _NTSC_TOLERANCE:
            return rate
    return fps.limit_denominator(_FPS_DENOMINATOR)


def parse_seconds(value: float | int | str | Fraction) -> Fraction:
    """A length of time in seconds as an exact fraction. Raises InputError when it is negative.

    A number that came over a FLOAT socket, such as 13.333333333333334, means the simple fraction it stands for: taken
    by its digits it would be a hair longer than 5 clips, and a sixth, empty one would be made.
    """
    seconds = _to_fraction(value, "duration")
    if seconds < 0:
        raise InputError(f"duration is {value} seconds; it cannot be negative. Give 0 or more.")
    # Of a long float, the nearest fraction with a large denominator may be another one than the simple one.
    simple = seconds.limit_denominator(_CLIPS_DENOMINATOR)
    return simple if float(simple) == float(seconds) else seconds.limit_denominator(_SECONDS_DENOMINATOR)


def parse_hms(text: str) -> Fraction:
    """Seconds of "hours:minutes:seconds", "minutes:seconds" or "seconds", the seconds with or without digits behind
    the point: "1:02:30" -> 3750, "2:30.5" -> 301/2, "90" -> 90.

    Raises InputError for anything else, for minutes and seconds of 60 or more behind a colon, and above MAX_SECONDS.
    """
    total = _seconds_of(text)
    if total is None:
        raise InputError(
            f"duration_hms is {text!r}. Give hours:minutes:seconds such as 1:02:30, or 2:30.5 or 90; minutes and "
            f"seconds behind a colon are below 60, and the longest is {format_hms(Fraction(MAX_SECONDS))}."
        )
    return parse_seconds(total)


def _seconds_of(text: str) -> Fraction | None:
    """The exact seconds of a time with up to two colons; None for anything else, and above MAX_SECONDS."""
    # Chinese keyboards give the wide colon.
    parts = _HMS.fullmatch(text.strip().replace("：", ":"))
    hours, minutes, rest = parts.groups() if parts else (None, None, None)
    seconds = Fraction(rest or 0)
    is_wrong = rest is None or (hours and int(minutes or 0) >= 60) or (minutes and seconds >= 60)
    total = int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds
    return None if is_wrong or total > MAX_SECONDS else total


def parse_time(text: str) -> Fraction:
    """Seconds from the beginning of a video, to the nearest thousandth: "0:12", "0:12.5", "1:02:30" or "12.5".

    Raises InputError for anything else, for minutes and seconds of 60 or more behind a colon, and above MAX_SECONDS.
    """
    total = _seconds_of(text)
    if total is None:
        raise InputError(
            f"{text!r} is no time. Give minutes:seconds such as 0:12 or 0:12.5, or hours:minutes:seconds such as "
            f"1:02:30; minutes and seconds behind a colon are below 60, and the latest is "
            f"{format_time(Fraction(MAX_SECONDS))}."
        )
    return _thousandths(total)


def _thousandths(seconds: Fraction) -> Fraction:
    """Rounded to them, half way to the later one."""
    return Fraction(math.floor(seconds * 1000 + Fraction(1, 2)), 1000)


def format_time(seconds: Fraction) -> str:
    """A time in a video, rounded to thousandths: "0:12", "0:12.5", "1:02:30"; `parse_time` backwards."""
    hours, rest = format_hms(_thousandths(seconds)).split(":", 1)
    minutes, seconds_text = rest.split(":")
    return f"{hours}:{rest}" if hours != "0" else f"{int(minutes)}:{seconds_text}"


def nearest_block(seconds: Fraction, fps: Fraction) -> int:
    """The block whose beginning is nearest to a time; half way between two it is the later one."""
    return math.floor(seconds * fps / FRAMES_PER_BLOCK + Fraction(1, 2))


def nearest_frame(seconds: Fraction, fps: Fraction) -> int:
    """The video frame that begins nearest to a time; half way between two it is the later one."""
    return math.floor(seconds * fps + Fraction(1, 2))


def block_start(block: int, fps: Fraction) -> Fraction:
    """Seconds before a block."""
    return block * FRAMES_PER_BLOCK / fps


def sample_at(seconds: Fraction, sample_rate: int) -> int:
    """The sample nearest to a time: how many there are before it."""
    return math.floor(seconds * sample_rate + Fraction(1, 2))


def check_infer_frames(infer_frames: int) -> int:
    """`infer_frames` itself. Raises InputError unless it is a whole, positive number of 12-frame blocks."""
    if isinstance(infer_frames, bool) or not isinstance(infer_frames, int):
        raise InputError(f"infer_frames is {infer_frames!r}; it must be a whole number: 12, 24, 36, 48, ...")
    if infer_frames < FRAMES_PER_BLOCK or infer_frames % FRAMES_PER_BLOCK:
        below = infer_frames // FRAMES_PER_BLOCK * FRAMES_PER_BLOCK
        # The longer clip first: it leaves out nothing of what was asked for.
        usable = f"{below + FRAMES_PER_BLOCK} or {below}" if below > 0 else f"{FRAMES_PER_BLOCK}"
        raise InputError(
            f"infer_frames is {infer_frames}; the model works in blocks of {FRAMES_PER_BLOCK} frames, so it must be a "
            f"multiple of {FRAMES_PER_BLOCK}. Use {usable} (48 is the default)."
        )
    return infer_frames


def check_num_clip(num_clip: int) -> int:
    """`num_clip` itself. Raises InputError unless it is a whole number of at least 1."""
    if isinstance(num_clip, bool) or not isinstance(num_clip, int):
        raise InputError(f"num_clip is {num_clip!r}; it must be a whole number: 1, 2, 3, ...")
    if num_clip < 1:
        raise InputError(f"num_clip is {num_clip}; a video has at least one clip. Use 1 or more.")
    return num_clip


def blocks_per_clip(infer_frames: int) -> int:
    """Latent blocks of one clip."""
    return check_infer_frames(infer_frames) // FRAMES_PER_BLOCK


def video_frames(num_clip: int, infer_frames: int) -> int:
    """Frames of the whole video."""
    return check_num_clip(num_clip) * check_infer_frames(infer_frames)


def latents_for_frames(frames: int) -> int:
    """Fewest latent frames that hold so many video frames; the first one counts as whole, as blocks do."""
    return -(-frames // FRAMES_PER_LATENT)


def duration(num_clip: int, infer_frames: int, fps: Fraction) -> Fraction:
    """Seconds of the whole video: `num_clip * infer_frames / fps`, exactly."""
    return Fraction(video_frames(num_clip, infer_frames)) / fps


def clips_for_duration(seconds: Fraction, infer_frames: int, fps: Fraction) -> int:
    """Fewest clips that cover `seconds`, at least 1: the formula of `duration` backwards, rounded up to whole clips."""
    return max(1, math.ceil(seconds * fps / check_infer_frames(infer_frames)))


def clips_for_frames(frames: int, infer_frames: int) -> int:
    """Fewest clips that have `frames` frames, at least 1."""
    return max(1, -(-frames // check_infer_frames(infer_frames)))


def check_segment(segment_clips: int, segment_index: int) -> None:
    """Raises InputError for a segment that no video has, however many clips it has."""
    if segment_clips < 0 or segment_index < 0:
        raise InputError(
            f"segment_clips is {segment_clips} and segment_index {segment_index}; neither can be negative. "
            "Use 0 for one video without segments."
        )
    if segment_index and not segment_clips:
        raise InputError(
            f"segment_index is {segment_index} and segment_clips 0, so the video is made as one and allowed is only 0. "
            "Set segment_clips to the clips of a segment, or segment_index to 0."
        )


def segment_clips(num_clip: int, segment_clips: int, segment_index: int, filled_by: str = "num_clip") -> range:
    """Clips of one segment of a video that is cut every `segment_clips` clips (0: not cut); the last may be shorter.

    `filled_by`: what decided `num_clip`, for the message: the user, or "the voice". Raises InputError when there is
    no such segment.
    """
    check_segment(segment_clips, segment_index)
    length = segment_clips or check_num_clip(num_clip)
    segments = -(-num_clip // length)
    if segment_index >= segments:
        allowed = f"0 to {segments - 1}" if segments > 1 else "only 0"
        made = f"{num_clip} clips" if filled_by == "num_clip" else f"{filled_by} fills {num_clip} clips, which"
        advice = "or raise num_clip (a voice must fill it)" if filled_by == "num_clip" else "or use a longer voice"
        raise InputError(
            f"segment_index is {segment_index}; {made} in segments of {length} make {segments}, "
            f"so allowed is {allowed}. Lower segment_index, {advice}."
        )
    return range(segment_index * length, min(num_clip, (segment_index + 1) * length))


def samples_for_frames(num_frames: int, fps: Fraction, sample_rate: int) -> int:
    """Audio samples that belong to frames [0, num_frames): the exact time of the end, rounded to a sample.

    The sound of frames [a, b) is samples [samples_for_frames(a), samples_for_frames(b)): no error adds up.
    """
    return math.floor(Fraction(num_frames) * sample_rate / fps + Fraction(1, 2))


def frames_for_samples(num_samples: int, fps: Fraction, sample_rate: int) -> int:
    """Fewest frames whose sound has all of `num_samples` samples, at least 1: `samples_for_frames` backwards.

    The last of them is the frame in which the last sample is heard.
    """
    return max(1, math.ceil((num_samples - Fraction(1, 2)) * fps / sample_rate))


def encoder_frames(num_samples: int) -> int:
    """50 Hz feature frames that one pass of wav2vec2 gives for `num_samples` samples at 16 kHz (0 below 400)."""
    if num_samples < ENCODER_MIN_SAMPLES:
        return 0
    return (num_samples - ENCODER_MIN_SAMPLES) // ENCODER_FRAME_SAMPLES + 1


def bucket_count(feature_frames: int) -> int:
    """30 Hz buckets that `feature_frames` 50 Hz frames are interpolated to."""
    # In floats as in the original on purpose: 205 frames give 122 buckets, not 123, and the model sees that length.
    return int(feature_frames / float(FEATURE_RATE) * BUCKET_RATE)


def bucket_index(frame: int, fps: Fraction, start: Fraction = Fraction(0)) -> int:
    """The 30 Hz bucket nearest to video frame `frame`; exactly half way goes to the even one.

    `start`: seconds of the video at which the sound begins; before it buckets are negative.
    """
    return round((frame / fps - start) * BUCKET_RATE)


def fixed_bucket_count(feature_frames: int) -> int:
    """30 Hz buckets that end within `feature_frames` 50 Hz frames, where they lie at fixed times."""
    return feature_frames * BUCKET_RATE // FEATURE_RATE


def fixed_bucket_position(bucket: int) -> tuple[int, Fraction]:
    """Where in the 50 Hz frames a bucket lies: the frame before it, and the share (0 to below 1) of the one after."""
    position = Fraction(bucket * FEATURE_RATE, BUCKET_RATE)
    return math.floor(position), position % 1


def frames_before_bucket(bucket: int, fps: Fraction) -> int:
    """Video frames from the first one on whose bucket comes before `bucket`: `bucket_index` backwards."""
    frame = max(0, math.floor((bucket - Fraction(1, 2)) * fps / BUCKET_RATE))
    while bucket_index(frame, fps) < bucket:
        frame += 1
    return frame


def driving_time(frame: int, fps: Fraction, length: Fraction, loops: bool) -> Fraction:
    """Seconds into a driving video of `length` seconds whose picture drives a video frame: the frame's own time. After
    the end it begins again if it `loops`, else the end stays."""
    seconds = frame / fps
    return seconds % length if loops else min(seconds, length)


def timestamp_error(unit: Fraction) -> Fraction:
    """By how many seconds a frame's time may be late, where a file counts time in units of so many seconds.

    Units that are much finer than a frame, such as Matroska's milliseconds, are what times were rounded to; coarse ones
    are the frames themselves.
    """
    return unit if unit < _COARSE_UNIT else Fraction(0)


def shown_length(frames: int, rate: Fraction | None, span: Fraction, unit: Fraction) -> Fraction:
    """Seconds that a file's pictures are shown, of their first and last time apart (`span`) by its own clock: exactly
    by their number, where they come at a constant rate."""
    by_rate = frames / rate if rate else span
    return by_rate if abs(by_rate - span) <= 2 * timestamp_error(unit) else span


def picture_at(seconds: Fraction, rate: Fraction, count: int) -> int:
    """Which of `count` pictures at a constant rate is shown at a time; the last one stays."""
    return min(math.floor(seconds * rate), count - 1)


def format_fps(fps: Fraction) -> str:
    """Frames a second for people, with the fraction where a few digits are not all of it: "25", "12.5",
    "29.97 (30000/1001)"."""
    text = f"{float(fps):g}"
    return text if Fraction(text) == fps else f"{text} ({fps})"


def format_hms(seconds: Fraction) -> str:
    """Seconds as hours:minutes:seconds: "0:01:30", "27:46:40", "0:00:08.008".

    Cut to milliseconds, not rounded: `parse_hms` gives back a duration that never needs a clip more.
    """
    minutes, rest = divmod(math.floor(seconds * 1000), 60_000)
    whole, thousandths = divmod(rest, 1000)
    behind = f".{thousandths:03}".rstrip("0") if thousandths else ""
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}{behind}"


def format_estimate(seconds: float) -> str:
    """A length of time that is only known roughly: "50 s", "12 min", "2 h 5 min"; at least a second."""
    if seconds < 90:
        return f"{max(1, math.floor(seconds + 0.5))} s"
    minutes = math.floor(seconds / 60 + 0.5)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def format_duration(seconds: Fraction, all_digits: bool = False) -> str:
    """Seconds for people, to a hundredth: "7.5 s", "2 min 30 s", "2 h 46 min 40 s"; `all_digits`: "7.50 s"."""
    hundredths = math.floor(seconds * 100 + Fraction(1, 2))
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes or hours else []
    number = f"{rest / 100:.2f}"
    return " ".join([*parts, (number if all_digits else number.rstrip("0").rstrip(".")) + " s"])
