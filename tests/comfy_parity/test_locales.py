"""Translations and help pages against the schemas that ComfyUI reads from the pack, loaded as ComfyUI loads it."""

import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCALES = ("en", "zh")
Table = dict[str, Any]


@pytest.fixture(scope="module")
def nodes(pack) -> dict[str, Any]:
    """Node id -> its class."""

    async def found() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(found())}


@pytest.fixture(scope="module")
def schemas(nodes) -> dict[str, Any]:
    """Node id -> io.Schema."""
    return {node_id: node.GET_SCHEMA() for node_id, node in nodes.items()}


def locale(language: str, file: str = "nodeDefs.json") -> Table:
    return json.loads((ROOT / "locales" / language / file).read_text(encoding="utf-8"))


def schema_texts(schema: Any) -> Table:
    """The English entry that belongs to a schema."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
        "outputs": {
            str(index): {"name": output.display_name or output.id, "tooltip": output.tooltip}
            for index, output in enumerate(schema.outputs)
        },
    }


def structure(value: Any) -> Any:
    """The keys of a table, all the way down."""
    return {key: structure(child) for key, child in value.items()} if isinstance(value, dict) else ""


def texts(value: Any) -> list[str]:
    return [text for child in value.values() for text in texts(child)] if isinstance(value, dict) else [value]


def test_english_is_what_the_schemas_say(schemas):
    assert locale("en") == {node_id: schema_texts(schema) for node_id, schema in schemas.items()}


def test_chinese_has_every_entry_of_the_schemas(schemas):
    assert structure(locale("zh")) == structure(locale("en"))


def test_categories_are_translated(schemas):
    categories = {schema.category for schema in schemas.values()}
    for language in LOCALES:
        assert set(locale(language, "main.json")["nodeCategories"]) == categories


@pytest.mark.parametrize("language", LOCALES)
def test_texts_are_whole_and_safe(language):
    """No text is empty, and none has the characters that vue-i18n reads as placeholders, links or plurals."""
    for text in texts(locale(language)) + texts(locale(language, "main.json")):
        assert text.strip() == text and text
        assert not re.search(r"[{}@|$]", text), text


def test_chinese_is_chinese():
    for node_id, entry in locale("zh").items():
        slots = [*entry["inputs"].values(), *entry["outputs"].values()]
        for text in (entry["display_name"], entry["description"], *(slot["tooltip"] for slot in slots)):
            assert re.search("[\u4e00-\u9fff]", text) or text == "Wan 2.1 VAE。", (node_id, text)


def test_help_pages_name_every_input_and_output(schemas):
    """`web/docs/<NodeId>.md` is what the front end shows in every language that has no page of its own."""
    for node_id, schema in schemas.items():
        english = (ROOT / "web/docs" / f"{node_id}.md").read_text(encoding="utf-8")
        chinese = (ROOT / "web/docs" / node_id / "zh.md").read_text(encoding="utf-8")
        entry = locale("zh")[node_id]
        assert english.startswith(f"# {schema.display_name}\n")
        assert chinese.startswith(f"# {entry['display_name']}\n")
        ids = [slot.id for slot in schema.inputs] + [slot.display_name or slot.id for slot in schema.outputs]
        missing = [name for page in (english, chinese) for name in ids if f"`{name}`" not in page]
        names = [slot["name"] for part in ("inputs", "outputs") for slot in entry[part].values()]
        missing += [name for name in names if name not in chinese]
        assert not missing, f"the help pages of {node_id} do not name {missing}"


def test_help_pages_say_the_same_line_by_line(schemas):
    """A line of the English page and its place in the Chinese one name the same values and files in code."""
    slots = {slot.id for schema in schemas.values() for slot in schema.inputs}
    for node_id in schemas:
        english = (ROOT / "web/docs" / f"{node_id}.md").read_text(encoding="utf-8").splitlines()
        chinese = (ROOT / "web/docs" / node_id / "zh.md").read_text(encoding="utf-8").splitlines()
        assert len(english) == len(chinese), node_id
        for first, second in zip(english, chinese, strict=True):
            quoted = [set(re.findall("`([^`]+)`", line)) - slots for line in (first, second)]
            # Of names of widgets the Chinese page may say its own; patterns hold words.
            assert {q for q in quoted[0] if "%" not in q} == {q for q in quoted[1] if "%" not in q}, second


def test_chinese_uses_one_word_for_each_thing():
    """What a Chinese ComfyUI calls it, and one word for clip, segment and GPU memory."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "web/docs").glob("*/zh.md")]
    said = [*texts(locale("zh")), *pages, (ROOT / "web/templates/zh.json").read_text(encoding="utf-8")]
    for other in ("潜空间", "视频段", "各段", "部分序号", "每段", "键值缓存", "控件", "暂存", "解压"):
        assert not [text for text in said if other in text], other
    for word in ("显存", "多卡", "分段", "口型", "显卡"):
        assert any(word in text for text in said), word


def test_no_help_page_is_left_over(schemas):
    pages = {
        path.relative_to(ROOT / "web/docs").parts[0].removesuffix(".md") for path in (ROOT / "web/docs").rglob("*.md")
    }
    assert pages == set(schemas)


def test_comfyui_reads_the_translations(comfy, monkeypatch, tmp_path):
    """Its own reading of the locales folder, from a custom_nodes folder that holds nothing but this pack."""
    import folder_paths
    from app.custom_node_manager import CustomNodeManager

    (tmp_path / "ComfyUI-LiveAvatar").symlink_to(ROOT, target_is_directory=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path)], set()))
    served = CustomNodeManager().build_translations()
    for language in LOCALES:
        assert served[language] == {**locale(language, "main.json"), "nodeDefs": locale(language)}


def test_every_advanced_widget_is_optional(schemas):
    """A graph that was saved for the API before a widget was added, or without it, still runs."""
    required = {(name, i.id) for name, s in schemas.items() for i in s.inputs if i.advanced and not i.optional}
    assert not required


def test_every_optional_widget_has_its_default_in_execute(nodes, schemas):
    """ComfyUI passes no value for an optional input that a graph does not have."""
    for node_id, node in nodes.items():
        parameters = inspect.signature(node.execute).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for given in schemas[node_id].inputs:
            if given.optional and not (takes_any and given.id not in parameters):
                assert parameters[given.id].default == getattr(given, "default", None), (node_id, given.id)
