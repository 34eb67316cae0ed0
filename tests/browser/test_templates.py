"""The 14B model from the template browser: what is missing and where it goes; three clicks when all is there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_server import ComfyServer

ROOT = Path(__file__).parents[2]
NAME, SAMPLER = "avatar_14b", "LiveAvatar_DiTSampler"
WORKFLOW = json.loads((ROOT / "workflows" / f"{NAME}.json").read_text(encoding="utf-8"))
MODELS = [model for node in WORKFLOW["nodes"] for model in node["properties"].get("models", [])]


@pytest.fixture
def files(server: ComfyServer) -> Iterator[None]:
    """A small file for every name, the transformer and the VAE real ones of the demo."""
    demo = ROOT / "demo" / "liveavatar-demo"
    contents = {"diffusion_models": "diffusion_pytorch_model.safetensors", "vae": "Wan2.1_VAE.safetensors"}
    made = []
    for model in MODELS:
        made.append(server.base / "models" / model["directory"] / model["name"])
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(demo / contents.get(model["directory"], "wav2vec2/model.safetensors"), made[-1])
    yield
    for path in made:
        path.unlink()


def test_every_missing_file_is_offered_with_its_folder(open_page):
    page = open_page(node_type=SAMPLER)
    page.open_template(NAME)
    page.page.get_by_role("button", name="View details").first.click()
    page.settle(1.0)
    page.screenshot("avatar_14b-missing")
    text = page.page.locator("body").inner_text()
    for model in MODELS:
        assert model["name"] in text
    assert page.page.get_by_role("button", name="Download").count() >= len(MODELS)
    assert not page.errors


def test_three_clicks_with_the_files_there(open_page, files):
    page = open_page(node_type=SAMPLER)
    page.page.get_by_role("button", name="Templates").first.click()
    page.page.get_by_text("Extensions", exact=True).first.click()
    page.page.get_by_test_id(f"template-workflow-{NAME}").click()
    page.page.get_by_test_id(f"template-workflow-{NAME}").wait_for(state="detached")
    page.settle(1.0)
    page.screenshot("avatar_14b-ready")
    assert page.page.get_by_text("errors found").count() == 0
    page.press_run()
    page.wait_for_event("execution_start")
    page.wait_for_event("executing")
    assert not page.errors


def test_titles_and_the_note_are_in_the_users_language(open_page, renderer):
    page = open_page(locale="zh", node_type=SAMPLER)
    page.load_workflow(WORKFLOW)
    page.settle(1.0)
    page.fit_view()
    page.screenshot("avatar_14b-zh")
    titles = page.page.evaluate("() => [...app.graph.nodes, ...app.graph.groups].map(item => item.title)")
    assert {"图片", "语音", "提示词", "最后一帧", "1. 模型文件", "4. 视频"} <= set(titles)
    note = page.page.evaluate("() => app.graph.nodes.find(n => n.type === 'MarkdownNote').widgets[0].value")
    assert "用 14B 模型生成" in note


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_the_pack_has_its_chinese_name_in_the_template_browser(open_page):
    """The front end translates names of packs there, but shows a template by the name of its file."""
    page = open_page(locale="zh", node_type=SAMPLER)
    page.page.get_by_role("button", name="模板").first.click()
    page.page.get_by_text("LiveAvatar 数字人", exact=True).first.wait_for()
    page.page.get_by_test_id(f"template-workflow-{NAME}").wait_for()
    page.screenshot("templates-zh")
    assert not page.errors


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_the_script_of_its_template_is_shown_and_followed(open_page):
    """Run as it is; where each line begins stands on the sampler, and what a line changes can be edited."""
    page = open_page(node_type=SAMPLER)
    page.open_template("direct_the_talk")
    script, sampler = page.node_id("LiveAvatar_AvatarScript"), page.node_id(SAMPLER)
    text = page.widgets(script)["script"]
    assert "[silence 1]" in text
    page.set_widget(script, "script", text.replace("0:03", "0:03.1"))
    page.press_run()
    page.wait_until_done()
    page.fit_view()
    page.screenshot("direct_the_talk")
    facts = [note for note in page.notes(sampler) if note.startswith("Script ")]
    assert facts == [
        "Script 0:00 -> 0:00, clip 1 (nothing new)",
        "Script 0:03.1 -> 0:03, clip 2 (another prompt)",
        "Script 0:05.5 -> 0:05.25, clip 2 (another prompt)",
    ]
    assert not page.errors and not page.overlapping()


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_speakers_shows_the_areas_before_a_run(open_page):
    """The template of two speakers, of which one node is run, as its play button does."""
    page = open_page(node_type="LiveAvatar_Speakers")
    page.open_template("two_speakers")
    page.settle(1.0)
    speakers = page.node_id("LiveAvatar_Speakers")
    page.page.evaluate("id => { app.queuePrompt(0, 1, [id]); }", speakers)
    page.wait_until_done()
    page.fit_view()
    page.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.[0]?.naturalWidth === 1024", arg=int(speakers))
    assert "2 speakers, 7.46 s" in page.notes(speakers)
    page.settle(1.0)
    page.screenshot("two_speakers")
    assert not page.errors
