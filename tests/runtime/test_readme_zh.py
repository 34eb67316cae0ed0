"""The Chinese README against the English one, whose numbers and messages are tested, and against the pack."""

import json
import re
from pathlib import Path

import pytest
import test_readme as english

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "README.zh.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMES = {
    language: {
        node: entry["display_name"]
        for node, entry in json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8")).items()
    }
    for language in ("en", "zh")
}
CORE_NAMES = {"加载CLIP", "加载VAE", "加载音频编码器"}
"""ComfyUI's own nodes, as its Chinese page shows them."""
WORDS_OF_THE_PAGE = {"模板", "运行", "中文", "LiveAvatar 数字人"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table rows under a heading, as in `test_readme`."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_readme_begins_with_a_link_to_the_other():
    assert "](README.zh.md)" in english.README[:200] and "](README.md)" in TEXT[:200]


def test_links_lead_somewhere():
    """Files, and the headings in them that are named."""
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(targets) >= 8
    for target in targets:
        file, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        page = ROOT / file if file else PAGE
        assert page.exists(), target
        assert not heading or heading in english.headings(page), target


def test_every_node_has_its_names_in_both_languages():
    pairs = {(row[0].strip("*"), row[1]) for row in rows("节点")[1:] if row[0].startswith("**")}
    assert pairs == {(NAMES["zh"][node], NAMES["en"][node]) for node in NAMES["en"]}


def test_what_is_bold_is_a_node_a_template_or_a_question():
    templates = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    bold = {name for name in re.findall(r"\*\*([^*]+)\*\*", TEXT) if not name.endswith("？")}
    assert bold <= templates | set(NAMES["zh"].values()) | CORE_NAMES | WORDS_OF_THE_PAGE
    assert {"short_clip", "avatar_14b", "avatar_14b_long", "avatar_14b_segments"} <= bold


def test_quoted_names_of_widgets_are_those_of_the_chinese_page():
    table = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    names = {
        slot["name"] for entry in table.values() for part in ("inputs", "outputs") for slot in entry[part].values()
    }
    for name in (
        "并行方式",
        "设备",
        "片段数",
        "每片段帧数",
        "每分段片段数",
        "分段序号",
        "续接状态上限",
        "声音",
        "输出全部帧",
    ):
        assert name in names and name in TEXT


@pytest.mark.parametrize(
    "columns", [pytest.param((0, 1, 3, 4), id="one card"), pytest.param((0, 1, 4, 5, 6), id="several cards")]
)
def test_numbers_of_cards_are_those_of_the_english_page(columns):
    """Columns of the English table; its numbers are computed or measured (`test_readme`)."""
    heading = "Memory" if len(columns) == 4 else "Several GPUs"
    table = english.rows(heading, english.MEMORY)
    known = [[row[column] for column in columns] for row in table if len(row) > max(columns)]
    told = [row for row in rows("显卡与设置") if len(row) == len(columns) and re.search(r"\d", row[-1])]
    told = [row for row in told if re.search(r"\d", row[0])]
    assert len(told) >= 5
    for row in told:
        row = [cell.replace("～", " to ") for cell in row]
        assert row in known, row


def test_the_table_of_cards_is_that_of_the_english_page():
    words = {"；": ", ", "，预测": ", predicted", "，实测": ", measured", "～": " to "}
    told = [row for row in rows("选哪个文件和设置") if "GiB" in row[0]]
    for row in told:
        for chinese, word in words.items():
            row[:] = [cell.replace(chinese, word) for cell in row]
    assert told and told == [row for row in english.rows("Your card") if "GiB" in row[0]]


def test_the_pages_are_those_of_the_english_page():
    linked = [set(re.findall(r"\]\(([\w./]+\.md)", str(table))) for table in (rows("更多"), english.rows("More"))]
    assert linked[0] == linked[1] and len(linked[0]) > 8


def test_the_files_are_those_of_the_english_page():
    files = [row for row in rows("第一个视频") if row[0].startswith("[")]
    assert files and files == [row for row in english.rows("The 14B model") if row[0].startswith("[")]


def test_quoted_messages_are_the_codes_own():
    texts = english.messages()
    quoted = [row[0].strip("`") for row in rows("常见报错")[2:]]
    assert len(quoted) > 10
    for quote in quoted:
        if quote.startswith("clip input is invalid"):
            continue
        pattern = ".*".join(re.escape(part) for part in quote.split(english.ANY)).replace("12", f"(12|{english.ANY})")
        assert any(re.search(pattern, text, re.DOTALL) for text in texts), quote
