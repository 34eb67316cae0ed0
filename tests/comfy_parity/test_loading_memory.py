"""Memory while a model loads, measured as `benchmarks/loading.py` does, on a smaller model."""

from pathlib import Path

import pytest

from benchmarks.loading import ALLOWED, measure_apart, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_files(path, layers=6, names=["bf16.safetensors", "fp8.safetensors"])
    return path


@pytest.mark.parametrize("way", ["ComfyUI: bf16, as in file", "ComfyUI: scaled fp8", "runtime: scaled fp8 to bf16"])
def test_loading_needs_hardly_more_than_what_is_kept(folder, way):
    figures = measure_apart(way, folder)
    assert figures["peak"] <= ALLOWED * figures["kept"], figures
