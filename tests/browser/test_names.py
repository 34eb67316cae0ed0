"""Names on ComfyUI's page: file name patterns, and what the node search puts first."""

import time

import pytest

DECODE, SCHEDULER = "LiveAvatar_OnlineVAEDecode", "LiveAvatar_ClipScheduler"


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_prefixes_and_search(open_page):
    page = open_page(node_type=DECODE)
    page.open_template("short_clip")
    decode, seed = page.node_id(DECODE), page.widgets(page.node_id(SCHEDULER))["seed"]
    page.set_widget(decode, "filename_prefix", f"%date:yyyy%/%{SCHEDULER}.seed%_%width%")
    sent = page.export_prompt()[decode]["inputs"]["filename_prefix"]
    assert sent == f"{time.strftime('%Y')}/{seed}_%width%", "as SaveVideo gets it; the server knows the width"
    (saved,) = (node for node in page.export_workflow()["nodes"] if node["id"] == int(decode))
    assert saved["widgets_values"][0].startswith("%date:yyyy%"), "the workflow keeps the pattern"
    page.clear()
    page.page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 500})
    page.page.keyboard.type("avatar")
    loader, spools = (page.page.get_by_text(text).first for text in ("Loads the Live Avatar", "Lists the finished"))
    loader.wait_for()
    spools.wait_for()
    page.settle()
    page.screenshot("search-avatar")
    tops = [(element.bounding_box() or {})["y"] for element in (loader, spools)]
    assert tops[0] < tops[1], "the model loader is what people look for"
    assert not page.errors
