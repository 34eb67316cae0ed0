"""The templates: what the build script makes of today's nodes, with links that lead to the right files, and alive."""

import argparse
import json
from pathlib import Path
from typing import Any

import build_workflows
import demo_workflow
import pytest
from comfy_workflow import nodes_of, to_prompt
from video_facts import probe

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
REAL = [path for path in TEMPLATES if path.stem.startswith("avatar_14b")]
BLUEPRINT = ROOT / "subgraphs" / "Talking Avatar.json"
FOLDERS = {"diffusion_models", "loras", "text_encoders", "vae", "audio_encoders"}
HOSTS = (
    "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/",
    "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/",
    "https://huggingface.co/Quark-Vision/Live-Avatar/resolve/main/",
)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def names(path: Path) -> str:
    return path.stem


def test_every_file_holds_exactly_todays_nodes_and_widgets(object_info):
    made = build_workflows.build(object_info)
    assert set(made) == {*TEMPLATES, BLUEPRINT}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run scripts/build_workflows.py"


def test_every_node_of_the_pack_is_in_a_template(object_info):
    used = {node["type"] for path in TEMPLATES for node in read(path)["nodes"]}
    assert {name for name in object_info if name.startswith("LiveAvatar_")} <= used


def test_titles_and_notes_are_there_in_both_languages():
    english, chinese = (read(ROOT / "web" / "templates" / f"{name}.json") for name in ("en", "zh"))
    assert set(english["notes"]) == set(chinese["notes"]) == {path.stem for path in TEMPLATES}
    assert set(english["titles"]) == set(chinese["titles"])
    for part in ("notes", "titles"):
        for key, text in english[part].items():
            assert chinese[part][key] != text and any("一" <= letter <= "鿿" for letter in chinese[part][key])
    assert bold_names(chinese) <= shown_names("zh") | {"VAE解码"}
    assert bold_names(english) <= shown_names("en") | {"VAE Decode"}


def bold_names(texts: dict[str, Any]) -> set[str]:
    """Nodes that the notes name: bold words that are no first sentence and no template."""
    bold = {piece for note in texts["notes"].values() for piece in note.split("**")[1::2]}
    return {piece for piece in bold if not piece.endswith(("。", ".")) and "avatar_14b" not in piece}


def shown_names(locale: str) -> set[str]:
    return {entry["display_name"] for entry in read(ROOT / "locales" / locale / "nodeDefs.json").values()}


@pytest.mark.parametrize("path", TEMPLATES, ids=names)
def test_a_template_has_a_thumbnail_a_note_and_room_for_every_node(path):
    assert path.with_suffix(".jpg").stat().st_size > 1000
    nodes = read(path)["nodes"]
    assert [node["title"] for node in nodes if node["type"] == "MarkdownNote"] == ["About this workflow"]
    boxes = [(*node["pos"], *node["size"]) for node in nodes]
    for number, (left, top, width, height) in enumerate(boxes):
        for other_left, other_top, other_width, other_height in boxes[number + 1 :]:
            beside = left + width <= other_left or other_left + other_width <= left
            below = top + height + 30 <= other_top or other_top + other_height + 30 <= top
            assert beside or below, (number, path.name)


def loaders(path: Path) -> list[dict[str, Any]]:
    content = read(path)
    inner = [node for graph in content.get("definitions", {}).get("subgraphs", []) for node in graph["nodes"]]
    return [node for node in [*content["nodes"], *inner] if node["properties"].get("models")]


@pytest.mark.parametrize("path", [*REAL, BLUEPRINT], ids=names)
def test_every_link_leads_to_the_file_that_the_loader_names_and_its_folder(path):
    models = [model for node in loaders(path) for model in node["properties"]["models"]]
    assert {model["directory"] for model in models} == FOLDERS and len(models) == len(FOLDERS)
    for node in loaders(path):
        for model in node["properties"]["models"]:
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith(HOSTS) and model["url"].endswith(f"/{model['name']}")
            if "split_files" in model["url"]:
                assert model["url"].split("/")[-2] == model["directory"]


@pytest.mark.parametrize("path", REAL, ids=names)
def test_the_templates_of_the_14b_model_run_with_the_demo_in_its_place(server, object_info, path, tmp_path):
    prompt = to_prompt(read(path), object_info)
    options = dict.fromkeys(("image", "audio", "prompt"), None)
    small = {"model": "liveavatar-demo/", "size": (64, 64), "num_clip": 3 if "segments" in path.stem else 1}
    demo_workflow.apply_options(prompt, argparse.Namespace(**options, **small), tmp_path)
    for node_id in nodes_of(prompt, "LiveAvatar_ClipScheduler"):
        prompt[node_id]["inputs"]["infer_frames"] = 12
    result = server.client.run(prompt)
    result.raise_for_error()
    files = list(demo_workflow.video_files(result, server))
    lengths = sorted(probe(file).frames for file in files)
    assert lengths == ([12, 12, 12, 36] if "segments" in path.stem else [12])
