"""Messages as bytes: what arrives, and what is refused, by type and field, before anyone acts on it."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import pytest
import torch
from tiny_avatar import CONFIG, PLAN, Noise, NoisePose, random_conditions
from torch import Tensor

from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import RunStart
from liveavatar_workers.messages import Block, More, Ring, Step, ToComfyUI, ToWorkers, Voice
from liveavatar_workers.run_request import RunRequest
from liveavatar_workers.wire.assembly import CHUNK, CHUNK_BYTES, HEADER, Assembly, pieces
from liveavatar_workers.wire.codec import BODY_BYTES, HEADER_BYTES, WIRE_DTYPES, MessageError, bytes_of, encode

FIRST_FRAME = torch.randn(16, 1, 8, 8)


def travelled(message: Any, kinds: Any = ToWorkers | ToComfyUI) -> Any:
    """What arrives."""
    return assembled(pieces(encode(message)), kinds)


def assembled(parts: Iterable[tuple[Any, ...]], kinds: Any = ToWorkers | ToComfyUI) -> Any:
    assembly, message = Assembly(kinds), None
    for part in parts:
        assert message is None, "it was complete before"
        message = assembly.add([memoryview(frame) for frame in part])
    return message


def a_run(**changes: Any) -> RunRequest:
    run = RunRequest.of(7, random_conditions(actors=2), PLAN, RunStart(3, {0: FIRST_FRAME}), [4, 2])
    return msgspec.structs.replace(run, **changes)


def a_block(**changes: Any) -> Block:
    block = Block(number=7, index=3, clip=1, latents=torch.randn(16, 3, 8, 8), rings=None, caches=[1, 2])
    return msgspec.structs.replace(block, **changes)


def header_of(message: Any) -> dict[str, Any]:
    return msgspec.msgpack.decode(encode(message).header, strict=False)


@pytest.mark.parametrize("dtype", WIRE_DTYPES.values(), ids=list(WIRE_DTYPES))
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24).reshape(2, 3, 4),
        torch.arange(24).reshape(4, 6).T,
        torch.zeros(0, 5),
        torch.tensor(3),
        torch.arange(2 * CHUNK_BYTES + 3),
    ],
    ids=["plain", "strided", "empty", "scalar", "large"],
)
def test_tensors_of_every_dtype_arrive_bit_for_bit(tensor: Tensor, dtype: torch.dtype) -> None:
    sent = tensor.to(dtype)
    got = travelled(Ring(number=1, name="a", tensor=sent)).tensor
    assert got.dtype == dtype and got.shape == sent.shape
    assert bytes(bytes_of(got)) == bytes(bytes_of(sent.contiguous()))
    # Otherwise products of it have other last bits.
    assert got.data_ptr() % 64 == 0 or not got.numel()


def test_only_known_dtypes_are_sent() -> None:
    with pytest.raises(InputError, match="complex64 do not travel"):
        encode(Ring(number=1, name="a", tensor=torch.zeros(1, dtype=torch.complex64)))


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        ClipPlan(),
        ClipPlan(fps=Fraction(30000, 1001), relative_distance=(4, 30, 17), sink_policy="reference", shift=2.5),
        ClipPlan(num_clip=8, segment_clips=3, segment_index=2),
    ],
)
def test_runs_travel_with_their_plans(plan: ClipPlan) -> None:
    conditions = random_conditions(plan=plan, actors=2)
    frame = torch.randn(16, 1, *plan.latent_size)
    placement = Placement("ram", "fp8", True, 3)
    got = travelled(RunRequest.of(7, conditions, plan, RunStart(3, {0: frame}, {}), [4, 2]).on(placement))
    assert (got.number, got.plan, got.kept_rings, got.rings, got.placement) == (7, plan, [2, 4], 0, placement)
    voice = Noise()
    arrived, pose = got.conditions(voice, NoisePose()), NoisePose()
    assert arrived.audio is voice and arrived.pose is None
    driven = travelled(RunRequest.of(7, replace(conditions, pose=pose), plan, RunStart(), []))
    assert driven.conditions(voice, pose).pose is pose and driven.pose_size == plan.latent_size
    for name in ("text", "reference", "motion", "actor_masks"):
        assert torch.equal(getattr(arrived, name), getattr(conditions, name))
    start = got.start({"a": frame})
    assert start.first_block == 3 and start.rings == {"a": frame} and torch.equal(start.first_frames[0], frame)


def changed(**fields: Any) -> dict[str, Any]:
    return {**header_of(a_run()), **fields}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in header_of(a_run()).items() if name not in names}


def plan_with(**fields: Any) -> dict[str, Any]:
    return changed(plan={**header_of(a_run())["plan"], **fields})


NAN = float("nan")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (without("plan"), "'run' cannot be read: Object missing required field `plan`"),
        (without("text"), "missing required field `text`"),
        (without("placement"), "missing required field `placement`"),
        (without("type"), "missing required field `type`"),
        (changed(type="pickle"), "'pickle' cannot be read: Invalid value 'pickle'"),
        (changed(code="print(1)"), "unknown field `code`"),
        (changed(number=-1), r"Expected `int` >= 0 - at `\$.number`"),
        (changed(number=1.5), r"Expected `int`, got `float` - at `\$.number`"),
        (changed(number=2**63), r"at `\$.number`"),
        (changed(kept_rings=["a"]), r"Expected `int`, got `str` - at `\$.kept_rings"),
        (changed(placement={"kv_cache": "floppy"}), r"Invalid enum value 'floppy' - at `\$.placement.kv_cache`"),
        (plan_with(steps=NAN), r"got `float` - at `\$.plan.steps`"),
        (plan_with(steps=101), "steps is 101; allowed are 1 to 100"),
        (plan_with(fps="1/0"), r"no fraction - at `\$.plan.fps`"),
        (plan_with(fps=[]), r"no fraction - at `\$.plan.fps`"),
        (plan_with(num_clip="many"), r"Expected `int`, got `str` - at `\$.plan.num_clip`"),
        (changed(text=["float32", [2**40, 2**40]]), r"impossible shape was announced - at `\$.text`"),
        (changed(text=["float32", [2**33, 2**33]]), rf"more than {BODY_BYTES:,} bytes were announced - at `\$.text`"),
        (changed(text=["float32", [-1]]), "impossible shape"),
        (changed(text=["float32", [1.5]]), "impossible shape"),
        (changed(text=["float32", [True]]), "impossible shape"),
        (changed(text=["float32", [1] * 9]), "impossible shape"),
        (changed(text=["float32", "1"]), "a tensor is told by"),
        (changed(text=["object", [1]]), "a tensor is told by"),
        (changed(text=[[], [1]]), "a tensor is told by"),
        (changed(text=["float32"]), "a tensor is told by"),
        (changed(text=7), "a tensor is told by"),
        (changed(first_frames={n: ["uint8", [1]] for n in range(5000)}), "more than 4096 tensors were announced"),
    ],
)
def test_headers_that_are_no_message_are_refused_by_field(header: dict[str, Any], told: str) -> None:
    with pytest.raises(MessageError, match=told):
        assembled([(HEADER, msgspec.msgpack.encode(header))], ToWorkers)


@pytest.mark.parametrize(
    "header", [b"", b"\xff\xff not msgpack", b"\x91" * 100_000, b"\xc1", b"\x80", b"{" * 9, bytes(HEADER_BYTES + 1)]
)
def test_bytes_that_are_no_header_are_refused(header: bytes) -> None:
    with pytest.raises(MessageError, match="cannot be read"):
        assembled([(HEADER, header)], ToWorkers)


def test_messages_of_the_other_side_are_refused() -> None:
    with pytest.raises(MessageError, match="Invalid value 'block'"):
        travelled(a_block(), ToWorkers)
    with pytest.raises(MessageError, match="Invalid value 'more'"):
        travelled(More(number=1, block=2), ToComfyUI)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (a_run(text=torch.zeros(1)), r"a message 'run' is wrong: text is float32 \[1\]; it must be \[any, any\]"),
        (a_run(text=torch.zeros(0, 16)), r"text is float32 \[0, 16\]"),
        (a_run(text=torch.zeros(5, 16, dtype=torch.uint8)), r"text is uint8 \[5, 16\]; .* of a floating type"),
        (a_run(text=torch.full((5, 16), NAN)), "text has numbers that are not finite"),
        (
            a_run(reference=torch.zeros(16, 1, 4, 4)),
            r"reference is float32 \[16, 1, 4, 4\]; it must be \[16, 1, 8, 8\]",
        ),
        (a_run(motion=torch.zeros(16, 19, 8, 8, dtype=torch.int64)), "motion is int64"),
        (a_run(actor_masks=torch.zeros(2, 3, 8, 8)), r"actor_masks is float32 \[2, 3, 8, 8\]"),
        (a_run(first_frames={0: torch.zeros(1)}), r"first_frames\[0\] is float32 \[1\]"),
        (a_run(first_frames={0: FIRST_FRAME * NAN}), r"first_frames\[0\] has numbers that are not finite"),
        (a_run(plan=replace(PLAN, shift=NAN)), "plan.shift is nan; it must be finite"),
        (Voice(number=1, first=0, audio=torch.zeros(1)), r"a message 'voice' is wrong: audio is float32 \[1\]"),
        (Voice(number=1, first=0, audio=torch.full((1, 2, 3, 4), NAN)), "audio has numbers that are not finite"),
        (a_block(latents=torch.zeros(1)), r"'block' is wrong: latents is float32 \[1\]; it must be float32 \[16, 3,"),
        (a_block(latents=torch.zeros(16, 3, 8, 8, dtype=torch.uint8)), r"latents is uint8 \[16, 3, 8, 8\]"),
        (
            Step(number=1, block=0, step=0, sigma=NAN, latents=a_block().latents, velocity=a_block().latents),
            "'step' is wrong: sigma is nan",
        ),
        (
            Step(number=1, block=0, step=0, sigma=1.0, latents=a_block().latents, velocity=torch.zeros(1)),
            r"velocity is float32 \[1\]",
        ),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_field(message: Any, told: str) -> None:
    with pytest.raises(MessageError, match=told):
        travelled(message)


def test_runs_and_voices_of_another_model_are_refused() -> None:
    a_run().check_for(CONFIG)
    with pytest.raises(ValueError, match=r"text is float32 \[5, 16\]; it must be \[any, 4096\]"):
        a_run().check_for(replace(CONFIG, text_dim=4096))
    voice = Voice(number=1, first=0, audio=Noise().frames(0, 12))
    voice.check_for(CONFIG, 12)
    for config, frames in ((CONFIG, 11), (replace(CONFIG, audio_dim=9), 12)):
        with pytest.raises(ValueError, match="audio is float32"):
            voice.check_for(config, frames)


def test_poses_come_where_the_run_is_driven_and_fit_it() -> None:
    plain = Voice(number=1, first=0, audio=Noise().frames(0, 12))
    driven = travelled(Voice(number=1, first=0, audio=plain.audio, pose=NoisePose().latents(0)))
    assert torch.equal(driven.pose, NoisePose().latents(0))
    plain.check_pose(None)
    driven.check_pose(PLAN.latent_size)
    for voice, size, told in (
        (plain, PLAN.latent_size, "pose is missing"),
        (driven, None, "pose is there"),
        (driven, (9, 8), r"pose is float32 \[16, 3, 8, 8\]; it must be \[16, 3, 9, 8\]"),
    ):
        with pytest.raises(ValueError, match=told):
            voice.check_pose(size)
    with pytest.raises(MessageError, match="pose is float32"):
        travelled(Voice(number=1, first=0, audio=plain.audio, pose=torch.zeros(16, 2, 8, 8)))


def test_pieces_that_do_not_fit_are_refused_and_the_next_message_is_read() -> None:
    assembly = Assembly(ToWorkers)
    header, first, *rest = pieces(encode(Ring(number=1, name="a", tensor=torch.arange(3 * CHUNK_BYTES))))

    def add(*frames: Any) -> Any:
        return assembly.add([memoryview(frame) for frame in frames])

    assert add(*header) is None and add(*first) is None
    # A sign of life in between is nothing unusual.
    assert add(HEADER, encode(More(number=1, block=3)).header).block == 3
    with pytest.raises(MessageError, match="'ring' ended before all bytes of its tensors had come"):
        add(*header)
    for chunk in (first, *rest[:-1]):
        assert add(*chunk) is None
    with pytest.raises(MessageError, match=r"has 262,145 bytes where a tensor wants"):
        add(CHUNK, bytes(CHUNK_BYTES + 1))
    # What follows belongs to the message that was refused.
    assert add(*rest[-1]) is None
    for frames in ((), (HEADER,), (b"x", b"y"), (HEADER, b"", b""), (CHUNK, b"a", b"b", b"c")):
        with pytest.raises(MessageError, match="frames are no piece of a message"):
            add(*frames)
    assert add(HEADER, encode(More(number=1, block=4)).header).block == 4


def test_nothing_is_allocated_for_what_is_announced_and_refused() -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    for _ in range(20):
        with pytest.raises(MessageError):
            assembled([(HEADER, msgspec.msgpack.encode(changed(text=["float32", [2**32, 2]])))], ToWorkers)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
