"""Models outside of ComfyUI's folder, by the key of extra_model_paths.yaml that docs/MODELS.md names."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("before", [True, False])
def test_bundles_are_found_where_extra_model_paths_says(pack, monkeypatch, tmp_path: Path, before: bool) -> None:
    """Whether ComfyUI reads the file before the pack registers its folders, as main.py does, or after."""
    import folder_paths
    from utils.extra_config import load_extra_path_config

    bridge = importlib.import_module(f"{pack.__name__}.comfy_bridge.folders")
    elsewhere = tmp_path / "my models" / "avatars"
    elsewhere.mkdir(parents=True)
    (elsewhere / "of-elsewhere").symlink_to(ROOT / "demo" / "liveavatar-demo", target_is_directory=True)
    page = (ROOT / "docs" / "MODELS.md").read_text(encoding="utf-8")
    (shown,) = (part.split("```")[0] for part in page.split("```yaml\n")[1:])
    given = shown.replace("D:/my models", (tmp_path / "my models").as_posix())
    (tmp_path / "extra_model_paths.yaml").write_text(given, encoding="utf-8")
    known = dict(folder_paths.folder_names_and_paths)
    known.pop(bridge.BUNDLE_FOLDER)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    steps = [lambda: load_extra_path_config(str(tmp_path / "extra_model_paths.yaml")), bridge.register_folders]
    for step in steps if before else reversed(steps):
        step()
    found = bridge.bundle_folders()
    assert found["of-elsewhere"] == elsewhere / "of-elsewhere"
    assert "liveavatar-demo" in found, "the pack's own are still there"
