"""The workflows for long videos as a user meets them: opened from the template browser, run, watched."""

import json
from pathlib import Path

import pytest
from comfy_workflow import normalised, to_prompt

ROOT = Path(__file__).parents[2]
JOIN, DECODE = "LiveAvatar_JoinSegments", "LiveAvatar_OnlineVAEDecode"


@pytest.fixture
def open_template(open_page):
    def opened(name: str):
        page = open_page(node_type=JOIN)
        page.open_template(name)
        return page

    return opened


@pytest.mark.parametrize("name", ["long_video_segments", "long_video_single"])
def test_opens_as_it_was_saved(open_template, server, name):
    page = open_template(name)
    assert not page.missing_types()
    page.fit_view()
    page.screenshot(f"{name}-opened")
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    exported = page.export_prompt()
    assert normalised(exported) == normalised(to_prompt(workflow, server.client.object_info()))
    assert not page.errors


def test_templates_have_pictures(server):
    for workflow in (ROOT / "workflows").glob("*.json"):
        picture = server.client.request(f"/api/workflow_templates/ComfyUI-LiveAvatar/{workflow.stem}.jpg")
        assert picture[:2] == b"\xff\xd8", workflow.stem


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_segments_run_and_the_joined_video_plays(open_template):
    page = open_template("long_video_segments")
    (seed,) = [n for n in page.node_ids("PrimitiveInt") if page.widgets(n)["value"] == 420]
    # The server would not sample again what another test has made.
    page.set_widget(seed, "value", 500)
    page.press_run()
    page.wait_until_done()
    join = page.node_id(JOIN)
    page.show_node(join)
    facts = page.play(page.video(join))
    assert (facts["width"], facts["height"]) == (64, 64) and facts["duration"] == pytest.approx(9, abs=0.1)
    page.screenshot("long_video_segments-joined")
    page.fit_view()
    page.screenshot("long_video_segments-done")
    assert not page.errors


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_a_webm_plays_and_restores_its_workflow(open_template, server):
    page = open_template("long_video_single")
    (scheduler,) = page.node_ids("LiveAvatar_ClipScheduler")
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    for name, value in (("num_clip", 1), ("infer_frames", 12), ("seed", 4321)):
        page.set_widget(scheduler, name, value)
    decode = page.node_id(DECODE)
    for name, value in (("codec", "vp9"), ("crf", 40), ("filename_prefix", "web")):
        page.set_widget(decode, name, value)
    page.press_run()
    page.wait_until_done()
    page.show_node(decode)
    assert page.play(page.video(decode), seconds=0.3)["duration"] == pytest.approx(0.75, abs=0.1)
    (written,) = server.output.glob("web_*.webm")
    page.clear()
    page.drop_file(written, "video/webm")
    page.page.wait_for_function("(t) => app.graph.nodes.some(n => n.type === t)", arg=DECODE)
    assert page.widgets(page.node_id("LiveAvatar_ClipScheduler"))["seed"] == 4321
    assert not page.errors


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_join_segments_grows(open_page):
    """A third part appears when the second is connected, and more after that."""
    page = open_page(node_type=JOIN)
    page.clear()
    join = page.add_node(JOIN, 600, 0)
    loads = [page.add_node("LoadVideo", 0, 200 * n) for n in range(5)]
    for number, load in enumerate(loads, start=1):
        page.connect(load, "VIDEO", join, f"parts.part_{number}")
        page.settle(0.2)
    prompt = page.export_prompt()
    assert [prompt[join]["inputs"][f"parts.part_{n}"] for n in range(1, 6)] == [[load, 0] for load in loads]
