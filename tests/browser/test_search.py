"""The node search of ComfyUI's page: each node is found under what people call it, whatever the page's language."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLER, JOIN = "LiveAvatar_DiTSampler", "LiveAvatar_JoinSegments"
WORDS = {
    "lip sync": SAMPLER,
    "digital human": "LiveAvatar_LoadAvatarModel",
    "concat videos": JOIN,
    "对口型": SAMPLER,
    "数字人": "LiveAvatar_AudioEncode",
    "视频时长": "LiveAvatar_DurationCalc",
    "显存": "LiveAvatar_ClipScheduler",
    "多卡": "LiveAvatar_LoadAvatarModel",
    "长视频": "LiveAvatar_OnlineVAEDecode",
    "拼接": JOIN,
    # Names of the other language.
    "片段规划": "LiveAvatar_ClipScheduler",
    "finished clips": "LiveAvatar_Spools",
}
NOTHING = "qqqqzzzz"


@pytest.mark.parametrize(("renderer", "locale"), [("classic", "en"), ("nodes2", "zh")], indirect=["renderer"])
def test_words_find_their_nodes(open_page, locale):
    names = json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
    page = open_page(locale=locale, node_type=SAMPLER)
    page.clear()
    page.page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 500})
    box = page.page.get_by_role("combobox").first
    results = page.page.get_by_test_id("result-item")
    for number, (word, node) in enumerate(WORDS.items()):
        # What is shown for the word before must not pass for this one's.
        box.fill(NOTHING)
        page.page.get_by_test_id("no-results").wait_for(timeout=60_000)
        box.fill(word)
        results.filter(has_text=names[node]["display_name"]).first.wait_for(timeout=60_000)
        if number in (0, 5):
            page.settle()
            page.screenshot(f"search-{locale}-{number}")
    assert not page.errors
