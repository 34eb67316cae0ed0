"""What nodes tell before a run: length, clips and frames while widgets change, and what sizes take."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from card_setups import FP8, setup_of
from comfy_page import ComfyPage
from playwright.sync_api import TimeoutError as NotThere

from liveavatar_runtime.executors.size_costs import at_size, size_cost
from liveavatar_runtime.planning.estimates import file_rates
from liveavatar_runtime.planning.memory import cache_bytes
from liveavatar_runtime.planning.plan_presets import CUSTOM
from liveavatar_runtime.planning.plan_presets import PRESETS as PLANS
from liveavatar_runtime.planning.size_presets import PRESETS

ENCODE, SCHEDULER, CALC = "LiveAvatar_AudioEncode", "LiveAvatar_ClipScheduler", "LiveAvatar_DurationCalc"
SAMPLER, DECODE = "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode"
WORKFLOWS = Path(__file__).parents[2] / "workflows"
BOX = """
    const nodes = [...app.rootGraph.nodes, ...app.rootGraph.nodes.flatMap(n => n.subgraph?.nodes ?? [])];
    const widget = nodes.find(n => String(n.id) === id)?.widgets?.find(w => w.name === 'liveavatar_live');
    const lines = [...(widget?.element?.children ?? [])].map(c => c.textContent);
"""
"""Lines of the node `id`, also of one in a subgraph."""
INTO_SUBGRAPH = """([kinds]) => {
    const inside = app.graph.nodes.filter(n => kinds.includes(n.type));
    return String(app.graph.convertToSubgraph(new Set(inside)).node.id);
}"""


def workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def wait_for(page: ComfyPage, node: str, *texts: str) -> None:
    """Waits until the lines of a node have all of these texts."""
    script = f"([id, texts]) => {{ {BOX} return texts.every(text => lines.some(line => line.includes(text))); }}"
    try:
        page.page.wait_for_function(script, arg=[node, list(texts)], timeout=20_000)
    except NotThere as error:
        told = page.page.evaluate(f"(id) => {{ {BOX} return lines; }}", node)
        raise AssertionError(f"{texts} are not told, but {told}") from error


def label(page: ComfyPage, scheduler: str, value: str, widget: str = "size") -> str:
    """What stands in a list."""
    script = """([id, name, value]) => {
        const options = app.graph.getNodeById(id).widgets.find(w => w.name === name).options;
        return options.getOptionLabel?.(value) ?? value;
    }"""
    return page.page.evaluate(script, [int(scheduler), widget, value])


def place_of(page: ComfyPage, node: str, widget: str) -> list[float]:
    """Where a widget is in the tab; in Nodes 2.0 the one of the same label."""
    if page.renderer == "nodes2":
        box = page.element(node).get_by_text(widget, exact=True).first.bounding_box()
        right = page.element(node).bounding_box()
        assert box and right
        return [right["x"] + 0.6 * right["width"], box["y"] + box["height"] / 2]
    script = """([id, name]) => {
        const node = app.graph.getNodeById(id);
        const widget = node.widgets.find(w => w.name === name);
        const at = [node.pos[0] + 0.7 * node.size[0], node.pos[1] + widget.y + 10];
        const box = app.canvas.canvas.getBoundingClientRect();
        const [x, y] = app.canvas.ds.convertOffsetToCanvas(at);
        return [box.x + x, box.y + y];
    }"""
    return page.page.evaluate(script, [int(node), widget])


def open_list(page: ComfyPage, scheduler: str, name: str, label: str) -> None:
    """Opens a list as a click does; `label` is what the page calls it."""
    page.show_node(scheduler)
    page.page.mouse.click(*place_of(page, scheduler, label if page.renderer == "nodes2" else name))
    page.settle(0.6)


def choose(page: ComfyPage, node: str, widget: str, option: str) -> None:
    """Chooses in a list as a person does."""
    page.show_node(node)
    page.page.mouse.click(*place_of(page, node, widget))
    if page.renderer == "nodes2":
        page.page.get_by_role("option", name=option).first.click()
    else:
        page.page.locator(".litemenu-entry").filter(has_text=option).first.click()
    wait_for_widget(page, node, widget, option)


def type_number(page: ComfyPage, node: str, widget: str, number: int) -> None:
    """Types a number into a widget."""
    page.page.mouse.dblclick(*place_of(page, node, widget))
    page.settle()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type(str(number))
    page.page.keyboard.press("Enter")
    wait_for_widget(page, node, widget, number)


def wait_for_widget(page: ComfyPage, node: str, widget: str, value: Any) -> None:
    script = "([id, name, value]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value === value"
    page.page.wait_for_function(script, arg=[int(node), widget, value], timeout=20_000)


def undo(page: ComfyPage) -> None:
    page.page.mouse.click(800, 60)
    page.page.keyboard.press("Control+z")


def decided(page: ComfyPage, node: str) -> dict[str, Any]:
    """The widgets that presets decide."""
    values = page.widgets(node)
    return {name: values[name] for name in PLANS["check"].widgets()}


def card_answer(selected: str) -> dict[str, Any]:
    """What comfy_bridge/page_sizes.py answers with a card that is not here, by the same planner."""
    sizes = {}
    for name, (width, height) in PRESETS.items():
        work = at_size(FP8, width, height)
        cost = size_cost(work, setup_of(work))
        time = 1 / cost.fps.likely if cost.fps else 1.0
        about = {"width": width, "height": height, "caches": cache_bytes(work), "time": time}
        sizes[name] = {**asdict(cost), **about, "cropped": None, "suits": True}
    plans = {name: sizes[plan.size] for name, plan in PLANS.items()}
    answer = {"device": "RTX 4090", "rate": "assumed", "model": "a", "selected": sizes[selected], "sizes": sizes}
    return {**answer, "presets": plans, "file": asdict(file_rates(*PRESETS[selected]))}


def test_lengths_follow_widgets_and_links(open_page):
    page = open_page(node_type=SAMPLER)
    page.load_workflow(workflow("short_clip"))
    scheduler, encode, sampler = (page.node_id(kind) for kind in (SCHEDULER, ENCODE, SAMPLER))
    wait_for(page, encode, "Voice: 6.94 s; 3 clips of 48 frames at 16 fps cover it")
    wait_for(page, scheduler, "3 x 48 frames / 16 fps = 9 s (144 frames)", "6.94 s: 2.06 s of silence", "64x64: 23 MiB")
    page.set_widget(scheduler, "fps", 29.97)
    wait_for(page, scheduler, "5 x 48 frames / 29.97 (30000/1001) fps = 8.01 s (240 frames)")
    page.set_widget(scheduler, "end", "voice")
    wait_for(page, scheduler, "ends with the voice: 6.94 s (208 frames)")
    page.set_widget(scheduler, "num_clip", 40)
    wait_for(page, scheduler, "⚠ num_clip 40 becomes 5: the voice lasts 6.94 s")
    page.set_widget(scheduler, "num_clip", 2)
    wait_for(page, scheduler, "⚠ The voice lasts 6.94 s: the last 3.73 s are left out; num_clip 5 covers it")
    for name, value in (("segment_clips", 3), ("num_clip", 5), ("fps", 16), ("end", "clip"), ("segment_index", 0)):
        page.set_widget(scheduler, name, value)
    wait_for(page, scheduler, "⚠ num_clip 5 becomes 3", "This run: segment 1 of 1, clips 1 to 3, 9 s (144 frames)")
    page.set_widget(scheduler, "segment_index", 1)
    wait_for(page, scheduler, "⚠ segment_index 1: allowed are 0 to 0")
    page.show_node(scheduler)
    page.screenshot("live-scheduler")

    for name, value in (("segment_clips", 0), ("segment_index", 0)):
        page.set_widget(scheduler, name, value)
    number, reroute = page.add_node("PrimitiveInt", 0, 1200), page.add_node("Reroute", 300, 1200)
    calc = page.add_node(CALC, 600, 1200)
    page.set_widget(number, "value", 2)
    page.connect(number, "INT", reroute, "")
    page.connect(reroute, "", scheduler, "num_clip")
    wait_for(page, scheduler, "2 x 48 frames / 16 fps = 6 s (96 frames)")
    wait_for(
        page,
        calc,
        "10 x 48 frames / 16 fps = 30 s (480 frames)",
        "Hours:minutes:seconds: 0:00:30",
        "File: about 1.2 MiB",
    )
    page.set_widget(calc, "solve_for", "num_clip")
    page.set_widget(calc, "duration", 3.001)
    wait_for(page, calc, "2 x 48 frames / 16 fps = 6 s (96 frames)")
    page.set_widget(calc, "duration_hms", "1:00")
    wait_for(page, calc, "20 x 48 frames / 16 fps = 1 min 0 s (960 frames)", "Hours:minutes:seconds: 0:01:00")
    page.set_widget(calc, "duration_hms", "1:60")
    wait_for(page, calc, "⚠ duration_hms 1:60: the run will refuse it and say why")
    page.set_widget(calc, "duration_hms", "")
    page.connect(encode, "avatar_audio", calc, "avatar_audio")
    wait_for(page, calc, "Voice: 6.94 s; 3 clips of 48 frames at 16 fps cover it", "3 x 48 frames / 16 fps = 9 s")
    page.show_node(calc)
    page.screenshot("live-calc")
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('avatar_audio')", int(calc))
    page.set_widget(calc, "duration", 2.9)
    page.connect(calc, "num_clip", scheduler, "num_clip")
    wait_for(page, scheduler, "1 x 48 frames / 16 fps = 3 s (48 frames)")
    page.connect(encode, "num_clip", scheduler, "num_clip")
    wait_for(page, scheduler, "3 x 48 frames / 16 fps = 9 s (144 frames)")

    trim = page.add_node("TrimAudioDuration", 900, 1200)
    page.connect(page.node_id("LoadAudio"), "AUDIO", trim, "audio")
    page.connect(trim, "AUDIO", encode, "audio")
    wait_for(page, encode, "Length of the voice: known when it is encoded")
    wait_for(page, scheduler, "num_clip: known when Audio Encode has run")
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    page.set_widget(scheduler, "num_clip", 0)
    wait_for(
        page, scheduler, "As many clips as the voice needs; a clip is 48 frames / 16 fps = 3 s", "known when it is"
    )
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('avatar_audio')", int(sampler))
    wait_for(page, scheduler, "No voice is connected")

    decode, seed = page.node_id(DECODE), page.widgets(scheduler)["seed"]
    page.set_widget(decode, "filename_prefix", f"%date%/%date:yy%/%{SCHEDULER}.seed%_%width%")
    sent, saved = page.export_prompt(), page.export_workflow()
    prefix = f"{time.strftime('%Y-%m-%d')}/{time.strftime('%y')}/{seed}_%width%"
    assert sent[decode]["inputs"]["filename_prefix"] == prefix, "the server knows the width"
    assert "liveavatar_live" not in json.dumps([sent, saved])
    lengths = {node["type"]: len(node["widgets_values"]) for node in workflow("short_clip")["nodes"]}
    kept = {node["type"]: len(node["widgets_values"]) for node in saved["nodes"] if node["type"] in (SCHEDULER, ENCODE)}
    assert all(count == lengths[kind] for kind, count in kept.items())
    assert not page.errors


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_lengths_in_a_subgraph(open_page):
    page = open_page(node_type=SAMPLER)
    page.load_workflow(workflow("short_clip"))
    scheduler = page.node_id(SCHEDULER)
    number = page.add_node("PrimitiveInt", 0, 1200)
    page.set_widget(number, "value", 2)
    page.connect(number, "INT", scheduler, "num_clip")
    page.page.evaluate(INTO_SUBGRAPH, [[SCHEDULER, ENCODE, SAMPLER]])
    inside = page.page.evaluate(
        "(kind) => String(app.graph.nodes.flatMap(n => n.subgraph?.nodes ?? []).find(n => n.type === kind).id)",
        SCHEDULER,
    )
    wait_for(page, inside, "2 x 48 frames / 16 fps = 6 s (96 frames)", "the last 0.94 s are left out")
    page.set_widget(number, "value", 3)
    wait_for(page, inside, "3 x 48 frames / 16 fps = 9 s (144 frames)", "64x64: 23 MiB")
    assert not page.errors


def test_sizes_tell_memory_and_cost_in_chinese(open_page):
    """With the 14B model, whose file is not here: assumed in bf16, on a processor without the memory for it."""
    page = open_page(locale="zh", node_type=SAMPLER)
    page.load_workflow(workflow("avatar_14b"))
    scheduler = page.node_id(SCHEDULER)
    wait_for(page, scheduler, "2 × 48 帧 ÷ 16 fps = 6 秒（96 帧）", "放不下 688x368", "按 14B 模型 bf16 估算")
    assert re.fullmatch(r"384x256 · \d+\.\d GiB · 放不下", label(page, scheduler, "384x256"))
    assert label(page, scheduler, "custom") == "custom"
    # What a machine with such a card answers.
    answer = json.dumps(card_answer("688x368"))
    page.page.route("**/liveavatar/sizes", lambda route: route.fulfill(body=answer, content_type="application/json"))
    page.set_widget(scheduler, "steps", 3)
    wait_for(page, scheduler, "688x368：RTX 4090 占用", "内存中的缓存 ", "帧（按公开数据估算）", "改用 672x352 可省")
    assert re.fullmatch(r"384x256 · \d+\.\d GiB · \d\.\d～\d+\.\d fps", label(page, scheduler, "384x256"))
    # 40 and 20 clips of 48 frames, at 1.5 to 3.2 and 4.6 to 10 frames a second.
    assert re.fullmatch(r"120 s · \d+\.\d GiB · \d+ 分～\d+ 分", label(page, scheduler, "120 s", "preset"))
    assert re.fullmatch(
        r"long form · \d+\.\d GiB · 每分钟视频 \d+ 分～\d+ 分", label(page, scheduler, "long form", "preset")
    )
    wait_for(page, scheduler, "约需 ")
    open_list(page, scheduler, "size", "尺寸")
    page.screenshot("live-sizes-zh")
    assert page.page.get_by_text("384x256 · ").count()
    page.page.mouse.click(800, 60)
    open_list(page, scheduler, "preset", "预设")
    page.screenshot("live-presets-zh")
    assert page.page.get_by_text("long form · ").count()
    assert not page.errors


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_nothing_breaks_without_the_routes(open_page):
    page = open_page(node_type=SAMPLER)
    page.page.route("**/liveavatar/*", lambda route: route.fulfill(status=404))
    page.load_workflow(workflow("short_clip"))
    scheduler = page.node_id(SCHEDULER)
    wait_for(page, page.node_id(ENCODE), "Length of the voice: known when it is encoded")
    wait_for(page, scheduler, "As many clips as the voice needs")
    assert label(page, scheduler, "384x256") == "384x256"
    page.settle(1.0)
    told = list(page.errors)
    routes = {match[1] for error in told for match in re.finditer(r"/liveavatar/(\w+)", error)}
    assert routes == {"live", "sizes", "voice"}, "the browser's own line about each route"
    assert all("404" in error for error in told)
    # What was on its way is told too; then nothing is asked any more.
    page.set_widget(scheduler, "num_clip", 3)
    page.settle(2.0)
    assert page.errors == told


def test_a_preset_fills_the_widgets_and_an_edit_leaves_it(open_page):
    page = open_page(node_type=SCHEDULER)
    page.load_workflow(workflow("short_clip"))
    scheduler, square = page.node_id(SCHEDULER), PLANS["120 s"].widgets(shape=1)
    choose(page, scheduler, "preset", "120 s")
    assert decided(page, scheduler) == square
    wait_for(page, scheduler, "⚠ num_clip 40 becomes 3: the voice lasts 6.94 s")
    page.screenshot("preset-chosen")
    type_number(page, scheduler, "steps", 3)
    wait_for_widget(page, scheduler, "preset", CUSTOM)
    assert decided(page, scheduler) == {**square, "steps": 3}
    undo(page)
    wait_for_widget(page, scheduler, "preset", "120 s")
    assert decided(page, scheduler) == square
    page.set_widget(scheduler, "seed", 1)
    page.set_widget(scheduler, "steps", 4)
    assert page.widgets(scheduler)["preset"] == "120 s", "neither is another plan"
    page.set_widget(scheduler, "size", "368x688")
    assert page.widgets(scheduler)["preset"] == "120 s", "the same upright"

    copy = page.page.evaluate(
        """(id) => {
        app.canvas.copyToClipboard([app.graph.getNodeById(id)]);
        app.canvas.pasteFromClipboard();
        return String(app.graph.nodes.at(-1).id);
    }""",
        int(scheduler),
    )
    page.set_widget(copy, "fps", 25)
    assert page.widgets(copy)["preset"] == CUSTOM and page.widgets(scheduler)["preset"] == "120 s"

    # Of a link, here from the subgraph's own widget, the server takes the value; nothing is filled.
    outer = page.page.evaluate(
        """(id) => {
        const outer = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])).node;
        const [inner] = outer.subgraph.nodes;
        outer.subgraph.addInput('preset', 'COMBO').connect(inner.inputs.find(i => i.name === 'preset'), inner);
        return String(outer.id);
    }""",
        int(scheduler),
    )
    page.set_widget(outer, "preset", "check")
    wait_for(
        page,
        scheduler,
        "⚠ preset check: num_clip 10 instead of 40, steps 3 instead of 4, size 256x384 instead of 368x688",
    )
    (sent,) = (node["inputs"] for name, node in page.export_prompt().items() if name.startswith(f"{outer}:"))
    assert (sent["preset"], sent["num_clip"], sent["steps"]) == ("check", 40, 4)
    assert not page.errors
