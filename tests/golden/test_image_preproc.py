"""Preparation of the reference picture against the original's, pixel by pixel."""

import torch

from liveavatar_runtime.media.images import fit_picture, fit_size


def test_padding_mode_is_the_original(golden):
    sizes = golden.about("image_preproc.safetensors")["sizes"]
    tensors = golden.tensors("image_preproc.safetensors")
    assert sizes
    for name, about in sizes.items():
        picture, expected = tensors[f"{name}.image"], tensors[f"{name}.out_u8"]
        area = int(name.rpartition("area")[2])
        height, width = fit_size(picture.shape[0], picture.shape[1], area, enlarge=False)
        assert [height, width] == about["generated_size"] == list(expected.shape[1:])
        ours = fit_picture(picture.float() / 255, height, width, mode="pad")
        assert ours.dtype == torch.float32
        assert ours.shape == expected.shape
        assert (ours - (expected.float() / 255 * 2 - 1)).abs().max() <= 1e-5, name
