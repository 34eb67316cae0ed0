"""Words that people look for, on the nodes that they look for, as the front end gets them."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BLUEPRINT = ROOT / "subgraphs" / "Talking Avatar.json"
NODES = [
    f"LiveAvatar_{name}"
    for name in (
        *("LoadAvatarModel", "AudioEncode", "ClipScheduler", "DiTSampler", "OnlineVAEDecode"),
        *("DurationCalc", "CollectLatents", "JoinSegments", "Spools", "PlanCheck", "HardwareProbe"),
        *("AvatarScript", "ScriptChange", "Speakers", "ClipJudge", "LiveVoice", "LiveOut"),
        *("FinishUpscale", "FinishColours", "FinishBackground", "FinishFrameRate"),
    )
]
(
    LOADER,
    VOICE,
    PLAN,
    SAMPLER,
    DECODE,
    DURATION,
    COLLECT,
    JOIN,
    SPOOLS,
    CHECK,
    PROBE,
    SCRIPT,
    CHANGE,
    SPEAKERS,
    JUDGE,
    LIVE_VOICE,
    LIVE_OUT,
    *FINISH,
) = NODES
CHAIN = [LOADER, SAMPLER]
WORDS = {
    "lip sync": [*CHAIN, VOICE, JUDGE],
    "talking avatar": CHAIN,
    "talking head": CHAIN,
    "digital human": NODES,
    "speech to video": CHAIN,
    "portrait animation": CHAIN,
    "数字人": NODES,
    "口型": [*CHAIN, VOICE, JUDGE],
    "对口型": [*CHAIN, VOICE, JUDGE],
    "说话": [*CHAIN, SPEAKERS],
    "语音驱动": [*CHAIN, VOICE],
    "视频时长": [PLAN, DURATION],
    "显存": [LOADER, PLAN, SAMPLER, CHECK, PROBE],
    "爆显存": [CHECK],
    "跑分": [PROBE],
    "直播": [LIVE_VOICE, LIVE_OUT],
    "microphone": [LIVE_VOICE],
    "rtmp": [LIVE_OUT],
    "多卡": [LOADER],
    "长视频": [PLAN, DECODE, JOIN],
    "拼接": [JOIN],
    "upscale": FINISH[:1],
    "抠像": FINISH[2:3],
    "插帧": FINISH[3:],
    "断点续传": [SAMPLER, SPOOLS],
    "潜空间": [COLLECT],
    "prompt schedule": [SCRIPT, CHANGE],
    "时间轴": [SCRIPT, CHANGE],
    "静音": [SCRIPT],
    "podcast": [SPEAKERS],
    "多人": [SPEAKERS],
    "质检": [JUDGE],
}
"""A word, and the nodes that carry it."""
OF_THE_WHOLE_CHAIN = [word for word, nodes in WORDS.items() if set(CHAIN) <= set(nodes) and word != "显存"]


def carriers(object_info: dict[str, Any], word: str) -> set[str]:
    """Nodes of the pack with the word in what the front end searches in every language: id and search words."""
    found = set()
    for name, info in object_info.items():
        searched = [name, *info["search_aliases"]] if name.startswith("LiveAvatar_") else []
        if any(word in text.lower() for text in searched):
            found.add(name)
    return found


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_on_the_right_nodes(object_info, word):
    assert carriers(object_info, word) == set(WORDS[word])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_is_found_by_its_name_in_either_language(object_info, language):
    """The front end searches the shown name of the user's own language only."""
    table = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for node_id, entry in table.items():
        assert entry["display_name"] in object_info[node_id]["search_aliases"]


def test_no_word_is_said_twice(object_info):
    for node_id in NODES:
        words = object_info[node_id]["search_aliases"]
        assert len({word.lower() for word in words}) == len(words), node_id


@pytest.mark.parametrize("word", OF_THE_WHOLE_CHAIN)
def test_the_chain_as_one_node_is_found_as_well(word):
    aliases = json.loads(BLUEPRINT.read_text(encoding="utf-8"))["extra"]["BlueprintSearchAliases"]
    assert any(word in text for text in aliases)
