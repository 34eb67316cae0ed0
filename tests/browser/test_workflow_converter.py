"""scripts/comfy_workflow.py gives the prompt that the front end itself makes of a workflow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_page import ComfyPage
from comfy_server import ComfyServer
from comfy_workflow import WorkflowError, normalised, to_prompt
from playwright.sync_api import Browser

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
MUTED, BYPASSED = 2, 4


@pytest.fixture(scope="module")
def comfy_page(browser: Browser, server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    """One tab for all tests here, which begin with a workflow of their own or with an empty canvas."""
    page = ComfyPage(browser, server, "classic", tmp_path_factory.mktemp("artifacts"))
    yield page.open()
    page.close()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_our_workflows(comfy_page, server, path: Path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    comfy_page.load_workflow(workflow)
    assert normalised(comfy_page.export_prompt()) == normalised(to_prompt(workflow, server.client.object_info()))


def both(page: Any, server: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The open workflow as the front end and as the converter send it."""
    return normalised(page.export_prompt()), normalised(to_prompt(page.export_workflow(), server.client.object_info()))


def test_widgets_of_core_nodes(comfy_page, server):
    """Seeds with their control, uploads, choices with inputs of their own, texts, defaults."""
    page = comfy_page
    page.clear()
    sampler = page.add_node("KSampler", 0, 0)
    page.set_widget(sampler, "seed", 1234)
    page.set_widget(sampler, "control_after_generate", "increment")
    page.set_widget(sampler, "cfg", 1.5)
    for place, kind in enumerate(["LoadImage", "LoadAudio", "EmptyImage", "CLIPTextEncode", "ImageScale", "SaveAudio"]):
        page.add_node(kind, 400, 250 * place)
    save = page.add_node("SaveVideo", 800, 0)
    page.set_widget(save, "codec", "h264")
    page.settle()
    page.set_widget(save, "codec.encoding", "re-encode")
    page.settle()
    page.set_widget(save, "codec.encoding.crf", 19)
    theirs, ours = both(page, server)
    assert ours == theirs
    assert theirs[save]["inputs"]["codec.encoding.crf"] == 19


def row_of(page: Any, *kinds: str) -> list[str]:
    """Adds nodes beside each other; their ids."""
    return [page.add_node(kind, 400 * place, 0) for place, kind in enumerate(kinds)]


@pytest.mark.parametrize(("mode", "sent"), [(0, True), (MUTED, False), (BYPASSED, False)])
def test_muted_and_bypassed_nodes(comfy_page, server, mode: int, sent: bool):
    page = comfy_page
    page.clear()
    source, middle, last = row_of(page, "EmptyImage", "ImageInvert", "PreviewImage")
    page.connect(source, "IMAGE", middle, "image")
    page.connect(middle, "IMAGE", last, "images")
    page.page.evaluate("([id, mode]) => { app.graph.getNodeById(id).mode = mode; }", [int(middle), mode])
    theirs, ours = both(page, server)
    assert ours == theirs
    assert (middle in theirs) == sent
    assert theirs[last]["inputs"].get("images") == {0: [middle, 0], MUTED: None, BYPASSED: [source, 0]}[mode]


def test_reroutes_primitives_and_notes(comfy_page, server):
    page = comfy_page
    page.clear()
    source, reroute, last = row_of(page, "EmptyImage", "Reroute", "PreviewImage")
    page.add_node("MarkdownNote", 0, 400)
    page.connect(source, "IMAGE", reroute, "")
    page.connect(reroute, "", last, "images")
    primitive = page.add_node("PrimitiveNode", -400, 0)
    page.page.evaluate(
        "([a, b]) => { const to = app.graph.getNodeById(b);"
        " app.graph.getNodeById(a).connect(0, to, to.inputs.findIndex(i => i.widget?.name === 'width')); }",
        [int(primitive), int(source)],
    )
    page.settle()
    page.set_widget(primitive, "width", 96)
    theirs, ours = both(page, server)
    assert ours == theirs
    assert set(theirs) == {source, last} and theirs[source]["inputs"]["width"] == 96


def test_unknown_nodes_and_subgraphs_are_refused(server):
    info = server.client.object_info()
    with pytest.raises(WorkflowError, match="no node Nonsense .node 7."):
        to_prompt({"nodes": [{"id": 7, "type": "Nonsense"}], "links": []}, info)
    with pytest.raises(WorkflowError, match="Node 3 is a subgraph"):
        to_prompt({"nodes": [{"id": 3, "type": "x-y"}], "definitions": {"subgraphs": [{"id": "x-y"}]}}, info)
    with pytest.raises(WorkflowError, match="no list of nodes"):
        to_prompt({"1": {"class_type": "KSampler", "inputs": {}}}, info)
