"""Audio buckets and feature interpolation against the original's."""

import math
from fractions import Fraction

import numpy as np
import torch

from liveavatar_runtime.audio.features import AvatarAudio, interpolate
from liveavatar_runtime.duration import bucket_count, bucket_index, encoder_frames

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def audio(features: torch.Tensor) -> AvatarAudio:
    """`features` [A, L, T, D] with a silent waveform."""
    return AvatarAudio(features, torch.zeros(1, features.shape[2] * 320), 16000)


def original_indices(num_frames: int, fps: int) -> list[int]:
    """Bucket indices as the original computes them, in floats, so that exact halves depend on the number of frames."""
    times = np.linspace(0, num_frames / fps, num_frames, endpoint=False)
    return np.round(times * 30).astype(int).tolist()


def audio_end(indices: list[int], buckets: int) -> int:
    """First frame after the track's end."""
    return next((frame for frame, index in enumerate(indices) if index >= buckets), len(indices))


def test_every_row_of_the_bucket_table(golden):
    for row in golden.json("audio_buckets.json")["rows"]:
        fps, clip_frames, theirs = row["fps"], row["batch_frames"], row["indices"]
        assert encoder_frames(round(row["seconds"] * 16000)) == row["n50"]
        buckets = bucket_count(row["n50"])
        assert buckets == row["t30"]
        clips = int(buckets / (clip_frames * (30 / fps))) + 1
        assert (clips, len(theirs)) == (row["min_batch_num"], clips * clip_frames)
        assert theirs == original_indices(len(theirs), fps)
        assert row["first_zero"] == audio_end(theirs, buckets)
        for frame, index in enumerate(theirs):
            exact = Fraction(30 * frame, fps)
            ours = bucket_index(frame, Fraction(fps))
            # An exact half has two nearest buckets; the original's choice is noise unless 1/fps is exact in binary.
            if exact.denominator == 2 and fps % 16:
                assert abs(ours - exact) == abs(index - exact) == Fraction(1, 2)
            else:
                assert ours == index, (row["seconds"], fps, frame)


def test_bucket_counts_with_their_float_traps(golden):
    table = golden.json("audio_buckets.json")
    lengths = table["first_300_output_lengths"]
    assert [bucket_count(n) for n in range(1, len(lengths) + 1)] == lengths
    traps = table["float_traps_n50_where_int(n/50.0*30)!=floor(3n/5)"]
    assert [n for n in range(1, max(traps) + 1) if bucket_count(n) != math.floor(Fraction(3 * n, 5))] == traps


def test_interpolation_to_30_a_second(golden):
    tensors = golden.tensors("audio_interp.safetensors")
    for given, wanted in (("in", "out_50_to_30"), ("all_layers.in", "all_layers.interp")):
        source, result = tensors[given], tensors[wanted]
        aligned = audio(source[None]).aligned(0, result.shape[1], Fraction(30))
        torch.testing.assert_close(aligned[0].transpose(1, 2), result, **TOLERANCE)


def test_interpolation_to_an_odd_length(golden):
    """Another length than the usual one: the first and the last still meet."""
    tensors = golden.tensors("audio_interp.safetensors")
    source, result = tensors["in"], tensors["out_len20"]
    length = result.shape[1]
    torch.testing.assert_close(interpolate(source, list(range(length)), length), result, **TOLERANCE)


def test_all_layers_to_video_frames(golden):
    tensors = golden.tensors("audio_interp.safetensors")
    expected = tensors["all_layers.audio_emb"]
    aligned = audio(tensors["all_layers.in"][None]).aligned(0, expected.shape[-1], Fraction(25))
    by_layer = aligned[0].permute(2, 0, 1)
    torch.testing.assert_close(by_layer, tensors["all_layers.bucket"], **TOLERANCE)
    torch.testing.assert_close(aligned.flatten(), expected.flatten(), **TOLERANCE)


def test_features_of_the_whole_original_run(golden):
    tensors = golden.tensors("e2e.safetensors")
    expected = tensors["audio_emb_mean"]
    fps = Fraction(golden.about("e2e.safetensors")["fps"])
    aligned = audio(tensors["audio_features_50hz"][None]).aligned(0, expected.shape[1], fps)
    torch.testing.assert_close(aligned.mean(dim=(1, 2)), expected, **TOLERANCE)
