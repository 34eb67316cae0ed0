"""The voice of a live session: features of bounded windows, encoded as soon as the sound of a block is there."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..audio.bounded import HEARD_TOGETHER, BoundedContext, at_fixed_times
from ..audio.features import broken_text, buckets_of
from ..audio.level import Memory, RecentLevel
from ..audio.voice import Voice
from ..audio.waveform import PIECE_SECONDS, piece_at_encoder_rate, seen_of_piece, source_samples
from ..audio.windows import Encode, Window, encoded_window, samples_seen
from ..duration import (
    ENCODER_FRAME_SAMPLES,
    ENCODER_SAMPLE_RATE,
    FEATURE_RATE,
    FRAMES_PER_BLOCK,
    fixed_bucket_position,
    samples_for_frames,
)
from ..errors import InputError, MachineError
from ..fingerprint import Fingerprint
from ..progress import Progress
from .packets import SOUND_AHEAD
from .samples import SOUND_RATE
from .sound import LiveSound


@dataclass(frozen=True)
class LiveContext:
    """How far features of a live voice see before and after their block, in feature frames."""

    look_back: int
    look_ahead: int
    memory: Memory = Memory()

    def at(self, fps: Fraction) -> BoundedContext:
        """A window for each block: its features are there as soon as its sound and the look-ahead are, and nothing of
        it is encoded twice."""
        step = FRAMES_PER_BLOCK * FEATURE_RATE / fps
        return BoundedContext(step, self.look_back, self.look_ahead, self.memory)


LIVE = LiveContext(look_back=4 * FEATURE_RATE, look_ahead=FEATURE_RATE // 5)
KEPT_SECONDS = 16
"""Of hidden states, behind the newest ones: a stream that is sampled again from where it was may ask for them."""
_ENDLESS = 2**62


@dataclass(frozen=True)
class VoiceEncoder:
    """encode: (samples [1, S] at 16 kHz, 16000) -> hidden states [L, T, D], as `windows.encode_in_windows`. `key`: hash
    of its weights, "" where they cannot be read; `levelled`: whether it wants sound of mean 0 and variance 1."""

    encode: Encode
    key: str = ""
    levelled: bool = True
    context: LiveContext = LIVE


@dataclass(frozen=True)
class HearingHooks:
    """check(): called at least every 0.05 s while sound is waited for; may raise. on_heard(first frame, due, ready,
    encoded): after each request, in seconds of the clock: when the last sound that it needs was due, when it was there,
    and when the features were."""

    check: Callable[[], None] = lambda: None
    on_heard: Callable[[int, float, float, float], None] = lambda frame, due, ready, encoded: None


class LiveVoice(Voice):
    """One speaker, whose sound comes while it is heard. Frame 0 begins with the session's sound.

    Features are the same, to the bit, as those of the same windows over the finished sound (`bounded.HeardSound`),
    however it came. `waveform` is empty; `sound` gives what was said in the last 30 s. Frames are asked for in order;
    hidden states of the last `KEPT_SECONDS` are kept. `hooks` may be set at any time.
    """

    def __init__(self, source: LiveSound, encoder: VoiceEncoder, hooks: HearingHooks = HearingHooks()) -> None:
        """Encodes a window of silence, which tells the sizes."""
        self.waveform, self.sample_rate = torch.zeros(1, 0), SOUND_RATE
        self.source, self.hooks = source, hooks
        self._encoder = encoder
        self._context: BoundedContext | None = None
        self._samples = EncoderSamples(source)
        self._level = RecentLevel(encoder.context.memory)
        self._parts = 0
        self._states: dict[int, Tensor] = {}
        self._lock = threading.Lock()
        self._broken = self._values = 0
        frames = encoder.context.look_back + FEATURE_RATE // 2 + encoder.context.look_ahead
        silent = Window(0, frames, 0, frames)
        self._sizes = encoded_window(encoder.encode, torch.zeros(1, samples_seen(frames)), silent).shape

    @property
    def is_live(self) -> bool:
        return True

    @property
    def channels(self) -> int:
        return 1

    @property
    def actors(self) -> int:
        return 1

    @property
    def encoded_to(self) -> tuple[int, int]:
        return self._sizes[0], self._sizes[2]

    @property
    def values(self) -> int:
        """Of those encoded so far."""
        return self._values

    @property
    def broken(self) -> int:
        return self._broken

    @property
    def by_sound(self) -> bool:
        return True

    @property
    def fingerprint(self) -> str:
        """Hash of how it is heard: what is said is not known."""
        how = Fingerprint().add("live", asdict(self._encoder.context))
        return how.add("encoder", [self._encoder.key, self._encoder.levelled]).hexdigest()

    @property
    def features_fingerprint(self) -> str:
        return self.fingerprint

    @property
    def encoding_device(self) -> torch.device | None:
        """None: nothing can be encoded before it is asked for."""
        return None

    def encode_frames(self, first_frame: int, num_frames: int, fps: Fraction, progress: Progress | None = None) -> None:
        """Does nothing: frames are encoded when they are asked for."""

    def heard_keys(self, fps: Fraction, blocks: int) -> tuple[str, ...] | None:
        """None: what the blocks hear is not known."""
        return None

    def sound(self, first_sample: int, end_sample: int) -> Tensor:
        """[1, n] of what was waited for; raises MachineError for what is older than the session keeps."""
        return self.source.read(first_sample, end_sample)

    def needed(self, first_frame: int, num_frames: int, fps: Fraction) -> int:
        """Samples of the session's sound that must be there for these frames and their features, at least one."""
        numbers = self._windows_of(buckets_of(first_frame, num_frames, fps), context := self._at(fps))
        stop = context.window(numbers[-1], _ENDLESS).stop
        # The last frames' own sound, and what the writer wants ahead of it, ends behind what their features see where
        # the look-ahead is short.
        own = samples_for_frames(first_frame + num_frames, fps, SOUND_RATE) + SOUND_AHEAD
        return max(source_samples(samples_seen(stop), SOUND_RATE), own)

    def aligned(self, first_frame: int, num_frames: int, fps: Fraction) -> Tensor:
        """As `Voice.aligned`, when the sound that it needs has come; after the session's end that is silence."""
        if not num_frames:
            return torch.zeros(1, self._sizes[0], self._sizes[2], 0)
        needed, clock = self.needed(first_frame, num_frames, fps), self.source.clock
        self.source.wait_until(needed, self.hooks.check)
        due, ready = self.source.due(needed), clock.now()
        buckets, context = buckets_of(first_frame, num_frames, fps), self._at(fps)
        windows = [context.window(number, _ENDLESS) for number in self._windows_of(buckets, context)]
        with self._lock:
            # At once, as each time most of a piece is brought to 16 kHz again.
            self._samples.have(samples_seen(windows[-1].stop))
            track = torch.cat([self._kept_of(window) for window in windows], dim=1)
            if self._broken:
                raise InputError(broken_text(self._broken, self._values))
        aligned = at_fixed_times(track, buckets, windows[0].keep_start).transpose(1, 2)[None]
        self.hooks.on_heard(first_frame, due, ready, clock.now())
        return aligned

    def _at(self, fps: Fraction) -> BoundedContext:
        context = self._encoder.context.at(fps)
        self._context = self._context or context
        if self._context != context:
            raise InputError(
                f"a live voice that was heard at {FRAMES_PER_BLOCK * FEATURE_RATE / Fraction(self._context.step)} "
                f"frames a second is asked for at {fps}. Give each live video a Live Voice of its own."
            )
        return context

    def _windows_of(self, buckets: list[int], context: BoundedContext) -> range:
        """Numbers of those that keep what these ascending buckets lie between."""
        (first, _), (last, share) = (fixed_bucket_position(bucket) for bucket in (buckets[0], buckets[-1]))
        return range(*context.numbers(first, last + (share > 0)))

    def _kept_of(self, window: Window) -> Tensor:
        """Hidden states [L, T, D] that a window keeps."""
        place = window.keep_start
        if place not in self._states:
            states = encoded_window(self._encoder.encode, self._levelled(window), window)
            kept = states[:, place - window.start : window.keep_stop - window.start]
            self._states[place] = kept.to("cpu", torch.float32, copy=True)
            self._broken += int((~self._states[place].isfinite()).sum())
            self._values += self._states[place].numel()
            oldest = place - KEPT_SECONDS * FEATURE_RATE
            self._states = {at: states for at, states in self._states.items() if at >= oldest}
        return self._states[place]

    def _levelled(self, window: Window) -> Tensor:
        """What the encoder is given of a window."""
        parts = max(1, window.stop // HEARD_TOGETHER)
        if parts < self._parts:
            at = window.keep_start / FEATURE_RATE
            raise MachineError(
                f"what was heard at {at:.2f} s of the live voice is not kept any more; {KEPT_SECONDS} s are. Start the "
                "session again."
            )
        for number in range(self._parts, parts):
            seen = (samples_seen(n * HEARD_TOGETHER) for n in (number, number + 1))
            part = self.source.read(*(source_samples(samples, SOUND_RATE) for samples in seen))
            self._level.add(part[0].numpy())
        self._parts = parts
        samples = self._samples.read(window.start * ENCODER_FRAME_SAMPLES, samples_seen(window.stop))
        return self._level.level().of(samples) if self._encoder.levelled else samples


class EncoderSamples:
    """A session's sound at 16 kHz: the same samples, to the bit, as `to_encoder_rate_in_pieces` gives of all of it.

    They are made in order; those of the last two pieces are kept.
    """

    def __init__(self, source: LiveSound) -> None:
        self._source = source
        self._kept = torch.zeros(1, 0)
        self._first = 0

    def read(self, first: int, end: int) -> Tensor:
        """[1, end - first], in memory of its own, of sound that was waited for."""
        self.have(end)
        if first < self._first:
            raise MachineError(f"sample {first} of the live voice at 16 kHz is not kept any more.")
        return self._kept[:, first - self._first : end - self._first].clone()

    def have(self, end: int) -> None:
        """Make the first `end` samples, of sound that was waited for."""
        piece = PIECE_SECONDS * ENCODER_SAMPLE_RATE
        while (have := self._first + self._kept.shape[1]) < end:
            number = have // piece
            until = min(end, (number + 1) * piece)
            first, last = (second * SOUND_RATE for second in seen_of_piece(number * PIECE_SECONDS))
            given = self._source.read(first, min(last, source_samples(until, SOUND_RATE)))
            made = piece_at_encoder_rate(given, number * PIECE_SECONDS, SOUND_RATE)
            self._kept = torch.cat([self._kept, made[:, have - number * piece : until - number * piece]], dim=1)
            superfluous = self._kept.shape[1] - 2 * piece
            if superfluous > 0:
                self._kept, self._first = self._kept[:, superfluous:].clone(), self._first + superfluous
