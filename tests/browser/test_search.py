"""The node search of ComfyUI's page: each node is found under what people call it, whatever the page's language."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADER, VOICE, SAMPLER, JOIN = (
    f"LiveAvatar_{name}" for name in ("LoadAvatarModel", "AudioEncode", "DiTSampler", "JoinSegments")
)
WORDS = {
    "lip sync": SAMPLER,
    "talking avatar": LOADER,
    "talking head": SAMPLER,
    "digital human": LOADER,
    "speech to video": LOADER,
    "portrait animation": SAMPLER,
    "concat videos": JOIN,
    "口型": VOICE,
    "对口型": SAMPLER,
    "说话": LOADER,
    "语音驱动": VOICE,
    "数字人": VOICE,
    "视频时长": "LiveAvatar_DurationCalc",
    "显存": "LiveAvatar_ClipScheduler",
    "多卡": LOADER,
    "长视频": "LiveAvatar_OnlineVAEDecode",
    "拼接": JOIN,
    # Names of the other language.
    "片段规划": "LiveAvatar_ClipScheduler",
    "finished clips": "LiveAvatar_Spools",
}
SHOWN = {"lip sync": "lip-sync", "数字人": "digital-human"}
"""Words whose results are kept as a picture."""
NOTHING = "qqqqzzzz"


@pytest.mark.parametrize(("renderer", "locale"), [("classic", "en"), ("nodes2", "zh")], indirect=["renderer"])
def test_words_find_their_nodes(open_page, locale):
    names = json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
    page = open_page(locale=locale, node_type=SAMPLER)
    page.clear()
    page.page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 500})
    box = page.page.get_by_role("combobox").first
    results = page.page.get_by_test_id("result-item")
    for word, node in WORDS.items():
        # What is shown for the word before must not pass for this one's.
        box.fill(NOTHING)
        page.page.get_by_test_id("no-results").wait_for(timeout=60_000)
        box.fill(word)
        results.filter(has_text=names[node]["display_name"]).first.wait_for(timeout=60_000)
        if word in SHOWN:
            page.settle()
            page.screenshot(f"search-{locale}-{SHOWN[word]}")
    assert not page.errors
