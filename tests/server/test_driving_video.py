"""A driving video in a real ComfyUI: as a file and as pictures, in segments, and what is refused."""

import av
import numpy as np
import pytest
from safetensors.numpy import load_file

SAMPLER, DECODER = "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode"
SMALL = {"num_clip": 2, "infer_frames": 24, "width": 64, "height": 64, "seed": 1900}
FRAMES = 40
"""At 16 frames a second, as the video: 8 fewer than it has."""


@pytest.fixture(scope="module")
def pose_file(server) -> str:
    """A bone that turns, as RGB without loss, so that ComfyUI's pictures of it are ours."""
    import cv2

    with av.open(str(server.base / "input" / "pose.mov"), "w") as container:
        stream = container.add_stream("png", rate=16)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "rgb24"
        for number in range(FRAMES):
            picture = np.zeros((80, 96, 3), np.uint8)
            end = 48 + int(30 * np.sin(number / 4)), 40 + int(30 * np.cos(number / 4))
            cv2.line(picture, (48, 40), end, (255, 85, 0), 5)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return "pose.mov"


@pytest.fixture(scope="module")
def sampled(server, short_clip):
    """sampled(name, pose, **widgets): latents [16, frames, h, w] of a run, and the sampler's notes."""

    def run(name: str, pose: list | None, plan: dict | None = None, **widgets) -> tuple[np.ndarray, list[str]]:
        # Other tests save latents on this server too.
        name = f"driving_video_{name}"
        prompt = short_clip(**{**SMALL, **(plan or {})})
        given = {} if pose is None else {"pose_video": pose}
        prompt.set(SAMPLER, **{"spool": "until ComfyUI ends", **given, **widgets})
        prompt.add("file", "LoadVideo", file="pose.mov")
        prompt.add("parts", "GetVideoComponents", video=["file", 0])
        prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id(SAMPLER), 0])
        prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix=name)
        for kind in (DECODER, "PreviewImage"):
            del prompt.nodes[prompt.id(kind)]
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        (saved,) = server.output.glob(f"{name}_*.latent")
        frames = load_file(saved)["latent_tensor"][0]
        return frames[:, -3 * (frames.shape[1] // 3) :], result.notes(prompt.id(SAMPLER))

    return run


def test_a_file_and_its_pictures_drive_the_same_video_also_in_segments(pose_file, sampled):
    plain, quiet = sampled("plain", None)
    driven, told = sampled("driven", ["file", 0])
    assert not any("pose_video" in line for line in quiet)
    assert "pose_video: 96x80, 2.5 s at 16 frames a second" in told
    assert any(line.startswith("Encoding pose_video takes") for line in told)
    assert any("from 0:02.5 on its last picture stays (hold)" in line for line in told)
    assert driven.shape == plain.shape and not np.array_equal(driven[:, :3], plain[:, :3])
    pictures, told = sampled("pictures", ["parts", 0])
    assert f"pose_video: {FRAMES} pictures, one for each frame" in told
    assert np.array_equal(pictures, driven)
    parts = [
        sampled(f"part{index}", ["file", 0], {"segment_clips": 1, "segment_index": index}, spool="keep")[0]
        for index in range(2)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), driven)


def test_after_its_end_it_begins_again_in_a_video_of_its_own(pose_file, sampled):
    looped, told = sampled("looped", ["file", 0], pose_end="loop", spool="keep")
    assert any("begins again at 0:02.5 (loop)" in line for line in told)
    held, _ = sampled("held", ["file", 0], spool="keep")
    # The driving video ends within the last block of the video.
    assert np.array_equal(looped[:, :9], held[:, :9]) and not np.array_equal(looped[:, 9:], held[:, 9:])


def test_what_is_no_video_is_refused_before_anything_is_sampled(server, short_clip, pose_file):
    (server.base / "input" / "broken.mp4").write_bytes(b"no video at all")
    prompt = short_clip(**SMALL)
    prompt.add("file", "LoadVideo", file="broken.mp4")
    prompt.set(SAMPLER, pose_video=["file", 0])
    result = server.client.run(prompt.nodes)
    assert result.error and "broken.mp4 cannot be read as a video" in result.error["exception_message"]
    assert not result.previews()
