"""Steps on decoded frames: how they come changes nothing, frames and sound are exact, files give alpha back."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec.context import CodecContext
from made_blocks import MadeRun
from media_files import decoded, decoded_sound, video_writer
from video_facts import probe

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.duration import samples_for_frames
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.finishing.background import ReplaceBackground, read_colour
from liveavatar_runtime.finishing.chain import AS_DECODED, FinishingChain
from liveavatar_runtime.finishing.colours import MatchColours
from liveavatar_runtime.finishing.frame_rate import MultiplyFrames
from liveavatar_runtime.finishing.step import FinishingStep, FrameShape
from liveavatar_runtime.finishing.table import STEPS
from liveavatar_runtime.finishing.upscale import Upscale, check_side, fitted
from liveavatar_runtime.media import live
from liveavatar_runtime.media.codecs import AUTO, CODECS, PIXEL_FORMATS, video_format
from liveavatar_runtime.media.images import to_uint8_frames
from liveavatar_runtime.media.join import Joining, join, read_parts
from liveavatar_runtime.media.live import LiveFile
from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, skipped_frames, write_online
from liveavatar_runtime.planning.kept_frames import check_kept, decoded_shape
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.spool.latent_stream import LatentStream
from liveavatar_runtime.stage_times import FINISHING, SAMPLER, VAE

SHAPE = FrameShape(80, 64, Fraction(24000, 1001))
PLAN = ClipPlan(num_clip=3, infer_frames=24, width=80, height=64, keep_aspect=False, fps=SHAPE.fps)
RATE = 16000
PICTURE = torch.rand(64, 80, 3, generator=torch.Generator().manual_seed(1))


def twice(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.repeat_interleave(2, -1).repeat_interleave(2, -2)


def blended(first: torch.Tensor, second: torch.Tensor, times: Sequence[float]) -> torch.Tensor:
    return torch.cat([torch.lerp(first, second, time) for time in times])


def upper_half(pictures: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(1, *pictures.shape[-2:])
    mask[:, : mask.shape[1] // 2] = 1
    return mask


def between():
    return blended


UPSCALE = Upscale(twice, 2)
DOUBLE = MultiplyFrames(between, 2)
TRANSPARENT = ReplaceBackground(upper_half)
COLOURS = MatchColours(PICTURE)
ALL = FinishingChain((COLOURS, TRANSPARENT, replace(UPSCALE, width=96), MultiplyFrames(between, 3)))


def chain(*steps: FinishingStep) -> FinishingChain:
    return FinishingChain(steps)


def video_of(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, frames, 64, 80, generator=torch.Generator().manual_seed(seed)).mul(2).sub(1)


def finished(steps: FinishingChain, pixels: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    run = steps.begin(SHAPE)
    made = [piece for part in pixels.split(list(sizes), dim=1) for piece in run.finish(part)]
    return torch.cat([*made, *run.flush()], dim=1)


@pytest.mark.parametrize(
    "steps",
    [*map(chain, (UPSCALE, COLOURS, TRANSPARENT, DOUBLE)), ALL],
    ids=["upscale", "colours", "alpha", "double", "all"],
)
def test_blocks_of_any_length_give_the_same_frames(steps: FinishingChain) -> None:
    pixels = video_of(15)
    whole = finished(steps, pixels, [15])
    shape = steps.shape(SHAPE)
    assert whole.shape == (4 if shape.has_alpha else 3, 15 * steps.frames_factor, shape.height, shape.width)
    assert whole.min() >= -1 and whole.max() <= 1
    for sizes in ([12, 3], [1] * 15, [9, 0, 6]):
        assert torch.equal(finished(steps, pixels, sizes), whole)


def test_a_chain_says_what_comes_out_of_it() -> None:
    assert ALL.shape(SHAPE) == FrameShape(96, 76, 3 * SHAPE.fps, has_alpha=True) and ALL.frames_factor == 3
    assert {step.name for step in STEPS} == {step.name for step in ALL.steps} and all(step.keeps for step in STEPS)
    assert AS_DECODED.shape(SHAPE) == SHAPE and AS_DECODED.frames_factor == 1


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_frames_keep_their_places_between_those_that_are_made(factor: int) -> None:
    """The last one is held, as nothing follows it."""
    pixels = video_of(5)
    made = finished(chain(MultiplyFrames(between, factor)), pixels, [2, 3])
    torch.testing.assert_close(made[:, ::factor], pixels)
    for number in range(1, factor):
        expected = torch.lerp(pixels[:, :-1], pixels[:, 1:], number / factor)
        torch.testing.assert_close(made[:, number::factor][:, :-1], expected)
        assert torch.equal(made[:, -number], made[:, -1])


def test_an_upscaled_frame_is_the_models_or_of_the_asked_size() -> None:
    pixels = video_of(1)
    torch.testing.assert_close(finished(chain(UPSCALE), pixels, [1]), twice(pixels))
    assert replace(UPSCALE, width=90).size(80, 64) == (90, 72) and replace(UPSCALE, height=90).size(80, 64) == (112, 90)
    wide = torch.zeros(1, 1, 48, 64)
    wide[..., :8] = 1
    assert fitted(wide, 96, 48).shape == (1, 1, 48, 96) and fitted(wide, 48, 48).max() < 0.01, "the middle is kept"


def test_a_size_of_another_aspect_is_told_where_frames_are_cropped_for_it() -> None:
    shape = FrameShape(80, 64, Fraction(16))
    kept = [UPSCALE, replace(UPSCALE, width=90), replace(UPSCALE, width=90, height=72)]
    assert not FinishingChain(tuple(kept)).warnings(shape)
    (told,) = FinishingChain((UPSCALE, replace(UPSCALE, width=160, height=64))).warnings(shape)
    assert "keeps the middle of the frames only: 160x64 has another aspect than 160x128" in told


def drifting(frames: int) -> torch.Tensor:
    """The picture, ever darker and redder, with a mouth that opens and shuts; pixels [3, T, H, W] in -1..1."""
    wall = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(3, 64, 80)
    video = (wall + 0.2 * PICTURE.permute(2, 0, 1)).repeat(frames, 1, 1, 1)
    for number in range(frames):
        if number % 4 < 2:
            video[number, :, 40:50, 25:55] = 0.1
        video[number] *= 1 - 0.3 * number / frames
        video[number, 0] += 0.1 * number / frames
    return video.transpose(0, 1).mul(2).sub(1)


def test_colours_stay_those_of_the_picture_and_do_not_flicker() -> None:
    """Of a wall that drifts by a third in 300 frames, with a mouth in front of it that changes all the time."""
    given = drifting(300)
    start = given[:, 2].add(1).div(2).permute(1, 2, 0)
    made = finished(chain(MatchColours(start)), given, [12] * 25)
    wall = made[:, :, :8].mean((2, 3)).add(1).div(2)
    drifted = given[:, -1, :8].mean((1, 2)).add(1).div(2)
    wanted = start[:8].mean((0, 1))
    assert (drifted - wanted).abs().max() > 0.1
    assert (wall[:, 100:] - wanted[:, None]).abs().max() < 0.04
    steps = wall.diff(dim=1).abs()
    assert steps.max() < 1 / 255 and steps[:, 11::12].max() <= 1.5 * steps.max(), "no step at a block's border"
    half = finished(chain(MatchColours(start, 0.5)), given[:, :1], [1])
    full = finished(chain(MatchColours(start)), given[:, :1], [1])
    torch.testing.assert_close(half, (given[:, :1] + full) / 2, atol=2e-3, rtol=0)
    assert torch.equal(
        finished(chain(MatchColours(start, 0.0)), given[:, :3], [3]), given[:, :3].add(1).div(2).mul(2).sub(1)
    )


def test_backgrounds() -> None:
    pixels = video_of(2)
    lower = (slice(None), slice(None), slice(32, None))
    clear = finished(chain(TRANSPARENT), pixels, [2])
    assert clear[3, :, :32].eq(1).all() and clear[3, :, 32:].eq(-1).all()
    torch.testing.assert_close(clear[:3], pixels)
    green = finished(chain(ReplaceBackground(upper_half, read_colour("#00ff00"))), pixels, [2])
    assert (green[lower].mean((1, 2, 3)) == torch.tensor([-1.0, 1.0, -1.0])).all()
    torch.testing.assert_close(green[:, :, :32], pixels[:, :, :32])
    behind = finished(chain(ReplaceBackground(upper_half, PICTURE)), pixels, [2])
    shown = PICTURE.permute(2, 0, 1)[:, None].mul(255).round().div(255).mul(2).sub(1).expand(-1, 2, -1, -1)
    torch.testing.assert_close(behind[lower], shown[lower])


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        (chain(TRANSPARENT, TRANSPARENT), "cut out twice"),
        (chain(TRANSPARENT, COLOURS), "Put it before Finish Background"),
        (chain(UPSCALE, replace(UPSCALE, width=4096), replace(UPSCALE, scale=8)), "makes 32768x26208 of 4096x3276"),
        (chain(replace(UPSCALE, height=8)), "sides of 16 to 16384 can be encoded"),
        (chain(replace(UPSCALE, scale=512)), "makes 40960x32768 of 80x64"),
    ],
)
def test_what_a_step_cannot_take_is_refused_at_once(steps: FinishingChain, match: str) -> None:
    with pytest.raises(InputError, match=match):
        steps.shape(SHAPE)


def test_values_of_widgets() -> None:
    for side in (0, 16, 1080):
        check_side("width", side)
    for side in (15, 1081, 16386, -2):
        with pytest.raises(InputError, match=f"width is {side}; players need even sides"):
            check_side("width", side)
    assert read_colour(" #ff8000 ") == (1.0, 128 / 255, 0.0)
    for text in ("green", "#12345", "", "#1234567", "#-12345"):
        with pytest.raises(InputError, match="six hexadecimal digits"):
            read_colour(text)


def test_values_that_are_no_numbers_name_the_step() -> None:
    broken = Upscale(lambda pictures: twice(pictures) * float("nan"), 2)
    with pytest.raises(MachineError, match="The finishing step upscale made values that are not numbers"):
        finished(chain(DOUBLE, broken), video_of(2), [2])


class Decoder:
    """Shows each block as 12 frames of its latents' values; `device` as a decoder in this process has it."""

    device = torch.device("cpu")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(latents.flatten()[0]))
        return torch.rand(3, 12, 64, 80, generator=generator).mul(2).sub(1)


class Remote:
    """The same in two halves, as workers decode."""

    def ask(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def take(self, asked: torch.Tensor) -> torch.Tensor:
        return Decoder().decode(asked)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.take(self.ask(latents))

    def close(self) -> None:
        pass


def write(
    path: Path, steps: FinishingChain, plan: ClipPlan = PLAN, decoder=None, fail_at: int | None = None, **options
):
    def make(block: int) -> torch.Tensor:
        if block == fail_at:
            raise InterruptedError("the button")
        return torch.full((16, 3, 8, 10), float(block + plan.segment.clips.start))

    stream = LatentStream(plan, torch.zeros(16, 3, 8, 10), MadeRun.start(make))
    sound = 0.3 * torch.sin(torch.arange(int(plan.duration * RATE)) / 20)[None]
    audio = AvatarAudio(torch.zeros(1, 1, 10, 4), sound, RATE)
    shape = steps.shape(decoded_shape(plan))
    video = OnlineVideo(path)
    picture: dict[str, Any] = {"codec": CODEC_OF[path.suffix], "has_alpha": shape.has_alpha}
    with video_writer(path, shape.width, shape.height, shape.fps, RATE, **picture) as writer:
        write_online(
            stream, decoder or Decoder(), audio, Output(writer, video), WriteOptions(finishing=steps, **options)
        )
    return video


CODEC_OF = {".mkv": "ffv1", ".webm": "vp9", ".mp4": "h264"}
CHAIN = chain(UPSCALE, DOUBLE)


@pytest.mark.parametrize(
    "plan",
    [PLAN, replace(PLAN, cut_frames=13), replace(PLAN, segment_clips=2, segment_index=1)],
    ids=["whole", "cut", "segment"],
)
def test_a_file_has_all_frames_and_the_sound_as_long(tmp_path: Path, plan: ClipPlan) -> None:
    seen: list[tuple[int, int]] = []
    video = write(tmp_path / "a.mkv", CHAIN, plan, hooks=Hooks(lambda *n: seen.append(n)), keep_frames=True)
    frames = 2 * plan.segment.frames
    facts = probe(video.path)
    assert (facts.frames, facts.width, facts.height) == (frames, 160, 128)
    # Matroska tells the length of a frame in nanoseconds.
    assert abs(facts.fps - 2 * PLAN.fps) < Fraction(1, 10**5)
    assert video.frames == frames and seen[-1] == (frames, frames)
    heard, rate, _ = decoded_sound(video.path, exact=False)
    assert heard.shape[1] == samples_for_frames(frames, 2 * PLAN.fps, rate)
    assert video.kept is not None and video.last_frame is not None
    assert torch.equal(video.last_frame, video.kept[-1]) and video.kept.shape == (frames, 128, 160, 3)
    pictures = np.stack(decoded(video.path)[0])
    assert np.array_equal(pictures, video.kept.mul(255).round().to(torch.uint8).numpy())
    assert video.times.written == -(-plan.segment.frames // 12)
    work = video.times.work()
    assert list(work)[:3] == [SAMPLER, VAE, FINISHING] and work[FINISHING] > 0


def test_threads_and_workers_change_nothing_and_no_steps_are_no_change(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.mp4", AS_DECODED)
    assert FINISHING not in plain.times.work()
    first = write(tmp_path / "one.mp4", CHAIN)
    assert probe(first.path).fps == 2 * PLAN.fps
    on_mps = SimpleNamespace(device=torch.device("mps"), decode=Decoder().decode)
    others: list[dict[str, Any]] = [{"overlap": False}, {"decoder": Remote()}, {"decoder": on_mps}]
    for number, options in enumerate(others):
        other = write(tmp_path / f"other{number}.mp4", CHAIN, **options)
        assert other.path.read_bytes() == first.path.read_bytes()


def test_an_interruption_keeps_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        write(tmp_path / "a.mp4", CHAIN, fail_at=4)
    # The frame behind the last one would have needed the next block.
    assert probe(tmp_path / "a.mp4").frames == 2 * 4 * 12 - 1


def test_an_error_of_a_step_ends_all(tmp_path: Path) -> None:
    calls: list[int] = []

    def enlarge(pictures: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 20:
            raise MemoryError("no room")
        return twice(pictures)

    with pytest.raises(MemoryError, match="no room"):
        write(tmp_path / "a.mp4", chain(Upscale(enlarge, 2)))
    assert probe(tmp_path / "a.mp4").frames == 20


def with_alpha(path: Path) -> np.ndarray:
    """RGBA of all frames; FFmpeg's own decoder of VP9 leaves alpha out."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        decoder = CodecContext.create("libvpx-vp9" if stream.codec_context.name == "vp9" else "ffv1", "r")
        decoder.extradata = stream.codec_context.extradata
        decoder.width, decoder.height = stream.width, stream.height
        frames = [frame for packet in file.demux(stream) if packet.size for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_alpha_comes_back_from_the_file(tmp_path: Path, ending: str) -> None:
    steps = chain(TRANSPARENT, DOUBLE)
    video = write(tmp_path / f"a.{ending}", steps)
    found = with_alpha(video.path)
    assert found.shape == (144, 64, 80, 4) and probe(video.path).frames == 144
    alpha = np.zeros((144, 64, 80), np.uint8)
    alpha[:, :32] = 255
    assert np.abs(found[..., 3].astype(int) - alpha).mean() < 1
    if ending == "mkv":
        pixels = torch.cat([Decoder().decode(torch.tensor(float(block))) for block in range(6)], dim=1)
        assert np.array_equal(found[::2, ..., :3], to_uint8_frames(pixels).numpy())
        assert np.array_equal(found[..., 3], alpha)
    assert video.last_frame is not None and video.last_frame.shape == (64, 80, 3)


def test_who_watches_alpha_begins_at_keyframes(tmp_path: Path) -> None:
    """Its pictures are in Matroska's groups, which name a keyframe by what is missing in them."""
    path, pieces = tmp_path / "a.webm", []
    with video_writer(path, codec="vp9", pixel_format="yuva420p", keyframe_interval=12) as writer:
        watched = LiveFile(path)
        for number in range(4):
            writer.write_frames(torch.full((12, 48, 64, 4), 60 * number, dtype=torch.uint8))
            pieces += watched.news()
    assert watched.mime == 'video/webm; codecs="vp9, opus"'
    assert sum(piece.starts for piece in pieces) == 4 and pieces[0].starts


def block_times(cluster: bytes) -> list[int]:
    """Of a cluster of Matroska, as they are written in it, relative to the cluster's."""
    content, size = live._size(cluster, 4)
    times = []
    for kind, place, end in live._elements(cluster, content, content + size):
        if kind == live.BLOCK_GROUP:
            kind, place, _ = next(iter(live._elements(cluster, place, end)))
        if kind in (live.SIMPLE_BLOCK, live.BLOCK):
            times.append(int.from_bytes(cluster[place + 1 : place + 3], "big", signed=True))
    return times


@pytest.mark.parametrize("has_alpha", [False, True])
def test_who_watches_vp9_gets_its_pictures_and_its_sound_in_order(tmp_path: Path, has_alpha: bool) -> None:
    """Chromium plays no cluster whose times go back, and FFmpeg puts Opus a few milliseconds too early."""
    path, data = tmp_path / "a.webm", b""
    with video_writer(path, sample_rate=RATE, codec="vp9", has_alpha=has_alpha) as writer:
        watched = LiveFile(path)
        for _ in range(24):
            writer.write_frames(torch.zeros(1, 48, 64, 4 if has_alpha else 3, dtype=torch.uint8))
            writer.write_audio(torch.zeros(1, RATE // 16))
            data += b"".join(piece.data for piece in watched.news())
        written = path.read_bytes()[len(watched.beginning) :][: len(data)]
    times = [block_times(data[first:end]) for first, end, _ in live._clusters(data)]
    assert len(times) > 10 and all(found == sorted(found) for found in times)
    as_written = [block_times(written[first:end]) for first, end, _ in live._clusters(written)]
    assert [sorted(found) for found in as_written] == times
    assert any(found != sorted(found) for found in as_written), "FFmpeg puts them in order by now: drop _in_order"


@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_joined_parts_keep_their_alpha(tmp_path: Path, ending: str) -> None:
    paths = [tmp_path / f"{number}.{ending}" for number in (0, 1)]
    for number, path in enumerate(paths):
        with video_writer(path, codec=CODEC_OF[path.suffix], has_alpha=True) as writer:
            pictures = torch.full((6, 48, 64, 4), 60 + 40 * number, dtype=torch.uint8)
            pictures[:, :24, :, 3], pictures[:, 24:, :, 3] = 255, 0
            writer.write_frames(pictures)
    parts = read_parts(paths)
    for reencode in (False, True):
        joined = tmp_path / f"{reencode}.{ending}"
        assert join(parts, joined, Joining(reencode=reencode)) == 12
        assert read_parts([joined])[0].has_alpha
        found = with_alpha(joined).astype(int)
        assert np.abs(found[:6, 4, 4] - [60, 60, 60, 255]).max() <= 4
        assert np.abs(found[6:, 40, 40] - [100, 100, 100, 0]).max() <= 4
    with video_writer(tmp_path / f"opaque.{ending}", codec=CODEC_OF[f".{ending}"]) as writer:
        writer.write_frames(torch.zeros(6, 48, 64, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match="its background is opaque, part 1 has transparent"):
        join(read_parts([paths[0], writer.path]), tmp_path / f"no.{ending}", Joining(reencode=True))


def test_alpha_needs_a_format_that_holds_it() -> None:
    for codec in CODECS:
        if any(PIXEL_FORMATS[name].has_alpha for name in CODECS[codec].pixel_formats):
            assert video_format(codec, AUTO, has_alpha=True).pixels.has_alpha
        else:
            with pytest.raises(InputError, match=r"transparent.*Choose codec vp9 \(webm\) or codec ffv1 \(mkv\)"):
                video_format(codec, AUTO, has_alpha=True)
    with pytest.raises(InputError, match="vp9 with pixel_format yuv444p cannot.*pixel_format auto or yuva420p"):
        video_format("vp9", "yuv444p", has_alpha=True)
    with pytest.raises(InputError, match="'nonsense'; vp9 takes"):
        video_format("vp9", "nonsense", has_alpha=True)


def test_kept_frames_are_counted_as_they_come_out() -> None:
    big = replace(PLAN, num_clip=50, infer_frames=48, width=720, height=400)
    note = check_kept(big, 512 * 2**30, chain(replace(UPSCALE, scale=4), DOUBLE))
    assert note == "return_frames keeps all 4800 frames of 2880x1600 in memory: 247.2 GiB of 512.0 GiB free."
    assert skipped_frames("hold", big) == 0
