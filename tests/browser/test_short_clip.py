"""The short clip workflow as a user meets it: opened from the template browser, run, watched."""

import pytest
from comfy_page import RENDERERS as ALL_RENDERERS
from test_live import INTO_SUBGRAPH

RENDERERS = list(ALL_RENDERERS)
SAMPLER, DECODE = "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode"


@pytest.fixture
def template(open_page):
    page = open_page(node_type=SAMPLER)
    page.open_template("short_clip")
    return page


def test_opens_runs_and_plays(template):
    assert not template.missing_types()
    template.fit_view()
    template.screenshot("short_clip-opened")
    sampler, decode = template.node_id(SAMPLER), template.node_id(DECODE)
    # One short clip is enough here; the widget of a linked input is set on the node the link comes from.
    (scheduler,) = template.node_ids("LiveAvatar_ClipScheduler")
    template.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    # A seed of its own for each renderer: the server would not sample again what it has in its cache.
    seed = 100 + RENDERERS.index(template.renderer)
    for name, value in (("num_clip", 2), ("infer_frames", 24), ("width", 128), ("height", 128), ("seed", seed)):
        template.set_widget(scheduler, name, value)
    template.press_run()
    template.wait_for_event("b_preview_with_metadata", sampler)
    template.screenshot("short_clip-sampling")
    template.wait_until_done()
    assert not [event for event in template.events("b_preview_with_metadata") if event["displayNodeId"] != sampler]
    states = [event["nodes"] for event in template.events("progress_state")]
    assert any(0 < state[sampler]["value"] < state[sampler]["max"] == 16 for state in states if sampler in state)
    assert any(0 < state[decode]["value"] < state[decode]["max"] == 48 for state in states if decode in state)
    template.show_node(decode)
    facts = template.play(template.video(decode))
    assert (facts["width"], facts["height"]) == (128, 128)
    # The whole file, or what was shown while it was made, once the last of it has arrived.
    whole = "(video) => Math.abs(video.duration - 48 / 16) < 0.1"
    template.page.wait_for_function(whole, arg=template.video(decode).element_handle())
    template.screenshot("short_clip-video")
    template.fit_view()
    template.screenshot("short_clip-done")
    assert any("128x128, 2 clips, 48 frames" in line for line in template.notes(sampler))
    assert any("48 frames, 3 s" in line for line in template.notes(decode))
    assert not template.overlapping(), "nodes have grown over others"
    template.press_run()
    template.wait_until_done()
    assert decode not in template.events("executing"), "an unchanged graph is decoded again"
    a_take_is_chosen_by_a_click(template, decode, scheduler)
    of_a_thousand_clips_only_those_in_view_are_made(template, decode)
    takes_are_written_where_they_come_from(template, decode, scheduler)
    assert not template.errors


def a_take_is_chosen_by_a_click(page, decode: str, scheduler: str) -> None:
    """On a picture of the finished video's clips; only that clip is sampled, and going back samples nothing."""
    page.show_node(decode)
    clips = page.player(decode).locator("[data-clip]")
    clips.locator("canvas").nth(1).wait_for()
    assert clips.all_inner_texts() == ["1", "2"]
    for entry, takes, blocks in (("again-alone", "1: 1", 2), ("alone-0", "", 0)):
        clips.first.click()
        page.screenshot(f"takes-menu-{entry}")
        page.page.locator(f'.liveavatar-menu [data-entry="{entry}"]').click()
        assert page.widgets(scheduler)["takes"] == takes
        # What is sampled is no matter of the renderer: the other one goes back without a run between.
        runs = page.renderer == "classic"
        is_new = str(bool(takes) or runs).lower()
        assert clips.evaluate_all("(all) => all.map((one) => one.dataset.isNew)") == [is_new, "false"]
        page.screenshot(f"takes-chosen-{entry}")
        if not runs:
            continue
        page.press_run()
        page.wait_until_done()
        assert len(page.events("b_preview_with_metadata")) == blocks
        settled = "(e) => [...e.querySelectorAll('[data-is-new]')].every((one) => one.dataset.isNew === 'false')"
        page.page.wait_for_function(settled, arg=page.player(decode).element_handle())


def of_a_thousand_clips_only_those_in_view_are_made(page, decode: str) -> None:
    """The node is told that its file had 1,000 clips, as it is told after a run."""
    told = """(id) => {
        const clips = { first: 1, count: 1000, of: 1000, frames: 12, fps: '16', skipped: 0, takes: '',
            wrong: { 500: 'the picture jumps', 502: 'frames are repeated' } };
        const [file] = app.nodeOutputs[id].images;
        app.graph.getNodeById(id).onExecuted({ images: [file], liveavatar_clips: [clips] });
    }"""
    page.page.evaluate(told, int(decode))
    page.player(decode).locator(".liveavatar-clips").evaluate("(e) => { e.scrollLeft = e.scrollWidth / 2; }")
    page.player(decode).locator('[data-clip="501"] canvas').wait_for()
    assert page.player(decode).locator("[data-clip]").count() < 20
    wrong = page.player(decode).locator('[data-is-wrong="true"]')
    assert [cell.get_attribute("data-clip") for cell in wrong.all()] == ["500", "502"]
    assert wrong.first.get_attribute("title").endswith(": the picture jumps")
    assert "Looks wrong: 500, 502" in page.player(decode).locator(".liveavatar-wrong").inner_text()


def takes_are_written_where_they_come_from(page, decode: str, scheduler: str) -> None:
    """Not where they come over a link; also into a subgraph."""
    clip = page.player(decode).locator('[data-clip="501"]')
    said = page.player(decode).locator(".liveavatar-takes-said")
    link = """([source, target]) => {
        const to = app.graph.getNodeById(target);
        app.graph.getNodeById(source).connect(0, to, to.findInputSlot('takes'));
    }"""
    page.page.evaluate(link, [int(page.add_node("PrimitiveString", -1200, 1200)), int(scheduler)])
    clip.click()
    assert "comes over a link" in said.inner_text() and page.page.locator(".liveavatar-menu [data-entry]").count() == 1
    page.page.keyboard.press("Escape")
    unlink = "(id) => { const to = app.graph.getNodeById(id); to.disconnectInput(to.findInputSlot('takes')); }"
    page.page.evaluate(unlink, int(scheduler))
    page.page.evaluate(INTO_SUBGRAPH, [[SAMPLER, "LiveAvatar_ClipScheduler"]])
    inside = """() => app.graph.nodes.flatMap(n => n.subgraph?.nodes ?? [])
        .find(n => n.type === 'LiveAvatar_ClipScheduler').widgets.find(w => w.name === 'takes').value"""
    page.player(decode).get_by_role("button", name="Make again").click()
    assert page.page.evaluate(inside) == "500: 1, 502: 1"
    clip.click()
    page.page.locator('.liveavatar-menu [data-entry="again-on"]').click()
    # What goes on from a clip makes those after it too.
    assert page.page.evaluate(inside) == "500: 1, 501-: 1"
    assert "The next run makes 501 of 1000 clips anew" in said.inner_text()


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_a_wrong_widget_value_is_explained(template):
    template.set_widget(template.node_id(DECODE), "filename_prefix", "../outside")
    template.press_run()
    template.page.get_by_text("View details").click()
    template.page.get_by_role("button", name="Info for Online VAE Decode").first.click()
    template.page.get_by_text("leaves the output folder").first.wait_for()
    template.screenshot("wrong-prefix")


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_the_written_video_restores_its_workflow_when_dropped(template, server):
    (scheduler,) = template.node_ids("LiveAvatar_ClipScheduler")
    template.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    for name, value in (("num_clip", 1), ("infer_frames", 12), ("width", 64), ("height", 64), ("seed", 1234)):
        template.set_widget(scheduler, name, value)
    template.set_widget(template.node_id(DECODE), "filename_prefix", "dropped")
    template.press_run()
    template.wait_until_done()
    (written,) = server.output.glob("dropped_*.mp4")
    template.clear()
    template.drop_file(written, "video/mp4")
    template.page.wait_for_function("(t) => app.graph.nodes.some(n => n.type === t)", arg=SAMPLER)
    assert template.widgets(template.node_id("LiveAvatar_ClipScheduler"))["seed"] == 1234
    assert not template.missing_types()
