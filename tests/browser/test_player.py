"""Online VAE Decode plays the video while it is made, and the finished file after that."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comfy_page import RENDERERS as ALL_RENDERERS
from comfy_page import ComfyPage

from benchmarks.tiny_models import write_upscale_model

RENDERERS = list(ALL_RENDERERS)
WORKFLOWS = Path(__file__).parents[2] / "workflows"
SAMPLER, DECODE, SCHEDULER = "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode", "LiveAvatar_ClipScheduler"
BLOCK_SECONDS = 12 / 16
PIECES = """() => app.api.addEventListener('liveavatar.live', ({ detail }) => { detail.pieces = true; }, true)"""
FACTS = """(v) => ({ time: v.currentTime, paused: v.paused, error: v.error?.message ?? null, width: v.videoWidth,
    end: v.buffered.length ? v.buffered.end(0) : 0, duration: v.duration, source: v.currentSrc })"""


def gated(page: ComfyPage, seed: int, blocks: int = 3, frames: int = 48) -> str:
    """The short clip with a gate before the decoder, two clips; returns the name of the file that opens it."""
    page.load_workflow(json.loads((WORKFLOWS / "short_clip.json").read_text(encoding="utf-8")))
    (scheduler,) = page.node_ids(SCHEDULER)
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('num_clip')", int(scheduler))
    for name, value in (("num_clip", 2), ("infer_frames", frames), ("width", 64), ("height", 64), ("seed", seed)):
        page.set_widget(scheduler, name, value)
    gate, sampler, decode = page.add_node("OddGate", -400, 0), page.node_id(SAMPLER), page.node_id(DECODE)
    page.connect(sampler, "latents", gate, "latents")
    page.connect(gate, "LIVEAVATAR_LATENTS", decode, "latents")
    page.set_widget(gate, "blocks", blocks)
    page.set_widget(gate, "gate", f"open-{seed}")
    return f"open-{seed}"


def facts(page: ComfyPage, node: str) -> dict:
    return page.video(node).evaluate(FACTS)


def wait_for_time(page: ComfyPage, node: str, seconds: float) -> None:
    """Until a node's video, which is in view, has come so far."""
    video = page.video(node)
    video.wait_for(state="visible")
    page.page.wait_for_function(
        "([v, s]) => v.currentTime > s && v.videoWidth > 0", arg=[video.element_handle(), seconds]
    )


def action(page: ComfyPage, node: str, name: str):
    return page.player(node).locator(f'[data-action="player{name}"]')


@pytest.mark.parametrize(
    ("renderer", "policy"), [("classic", "with policy"), ("nodes2", "ordinary")], indirect=["renderer"]
)
def test_plays_past_the_first_block_while_later_ones_are_sampled(
    open_page: Callable[..., ComfyPage], server, policy: str
) -> None:
    """ComfyUI started with --disable-api-nodes has a content security policy that forbids MediaSource.

    All four pairs are those of `benchmarks.live_player`.
    """
    page = open_page(node_type=SAMPLER, bypass_csp=policy == "ordinary")
    if policy == "ordinary":
        # What such a server tells its pages.
        page.page.evaluate(PIECES)
    seed = 900 + RENDERERS.index(page.renderer) + 2 * (policy == "ordinary")
    gate, decode = gated(page, seed), page.node_id(DECODE)
    page.show_node(decode)
    page.press_run()
    wait_for_time(page, decode, 1.2 * BLOCK_SECONDS)
    playing = facts(page, decode)
    assert playing["source"].startswith("blob:" if policy == "ordinary" else "http"), playing
    assert page.player(decode).evaluate("(e) => e.getBoundingClientRect().height") > 100
    assert not page.events("executed") or decode not in [event["node"] for event in page.events("executed")]
    # The gate lets the next block be sampled before it waits.
    (line,) = page.notes(page.node_id(SAMPLER), "pace")
    assert line.startswith("clip 1 of 2, block 4 of 4, step 4 of 4; "), line
    assert all(part in line for part in (" left; ", " a block; ", "first block ", "x real time; RAM ")), line
    page.screenshot(f"player-live-{policy.replace(' ', '-')}")
    (server.input / gate).touch()
    page.wait_until_done()
    # One element, one source: nothing is loaded again for a block; the finished file replaces it once.
    shown_file(page, decode)
    assert ".mp4" in page.player(decode).inner_text(), "the finished file is not named"
    wait_for_time(page, decode, 4 * BLOCK_SECONDS)
    assert facts(page, decode)["duration"] == pytest.approx(96 / 16, abs=0.1)
    assert any(line.startswith("sampled 8 blocks in ") for line in page.notes(decode))
    page.screenshot(f"player-finished-{policy.replace(' ', '-')}")
    assert not page.errors


def shown_file(page: ComfyPage, node: str) -> None:
    """Waits until a node's player shows a finished file."""
    script = "(e) => e.querySelector('video').currentSrc.includes('/view?')"
    page.page.wait_for_function(script, arg=page.player(node).element_handle())


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_after_an_interruption_the_file_is_there_with_all_that_is_done_with_it(open_page, server):
    page = open_page(node_type=SAMPLER)
    gated(page, 910)
    decode = page.node_id(DECODE)
    page.show_node(decode)
    page.press_run()
    wait_for_time(page, decode, 1.2 * BLOCK_SECONDS)
    server.client.interrupt()
    page.wait_until_done()
    shown_file(page, decode)
    wait_for_time(page, decode, 0.1)
    written = facts(page, decode)
    assert 2 * BLOCK_SECONDS < written["duration"] <= 4 * BLOCK_SECONDS + 0.1 and written["width"] == 64
    page.screenshot("player-interrupted")
    with page.page.expect_download() as download:
        action(page, decode, "Save").click()
    name = download.value.suggested_filename
    (path,) = (server.output / "LiveAvatar").glob(name)
    assert Path(download.value.path()).read_bytes() == path.read_bytes()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    action(page, decode, "CopyPath").click()
    assert page.page.evaluate("() => navigator.clipboard.readText()") == str(path)
    with page.context.expect_page() as opened:
        action(page, decode, "Open").click()
    assert name in opened.value.url
    action(page, decode, "Mute").click()
    action(page, decode, "Loop").click()
    assert page.video(decode).evaluate("(v) => [v.muted, v.loop]") == [True, True]
    assert not page.errors


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_the_player_comes_back_after_a_reload_and_with_its_workflow(open_page, server):
    page = open_page("zh", node_type=SAMPLER, bypass_csp=True)
    gate, decode = gated(page, 911), page.node_id(DECODE)
    page.press_run()
    page.player(decode)
    workflow = page.export_workflow()
    page.open(SAMPLER)
    page.load_workflow(workflow)
    page.show_node(decode)
    wait_for_time(page, decode, 0.1)
    assert action(page, decode, "Mute").or_(action(page, decode, "Unmute")).inner_text() in ("静音", "取消静音")
    page.load_workflow({"nodes": [], "links": [], "version": 0.4}, "other")
    assert page.page.locator(".liveavatar-player video").count() == 0
    page.load_workflow(workflow, "again")
    page.show_node(decode)
    wait_for_time(page, decode, 0.1)
    page.screenshot("player-reloaded")
    (server.input / gate).touch()
    shown_file(page, decode)
    assert facts(page, decode)["duration"] == pytest.approx(96 / 16, abs=0.1)
    assert not page.errors


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_two_decoders_and_a_list_of_videos(open_page, server):
    page = open_page(node_type=SAMPLER)
    gate, decode = gated(page, 912, frames=24), page.node_id(DECODE)
    (server.input / gate).touch()
    other, twice = page.add_node(DECODE, 300, 900), page.add_node("OddTwice", -400, 900)
    for source, output, target, name in (
        (page.node_id("OddGate"), "LIVEAVATAR_LATENTS", twice, "latents"),
        (twice, "LIVEAVATAR_LATENTS", other, "latents"),
        (page.node_id("LiveAvatar_LoadAvatarModel"), "vae", other, "vae"),
    ):
        page.connect(source, output, target, name)
    page.press_run()
    page.wait_until_done()
    for node, count in ((decode, 1), (other, 2)):
        page.show_node(node)
        shown_file(page, node)
        assert page.player(node).locator("video").count() == 1
        assert page.player(node).locator("option").count() == (count if count > 1 else 0)
    page.player(other).locator("select").select_option("1")
    wait_for_time(page, other, 0.2)
    page.screenshot("player-list")
    assert not page.errors


@pytest.mark.parametrize("renderer", ["nodes2"], indirect=True)
def test_a_transparent_video_is_shown_before_squares_while_it_is_made_and_after(open_page, server):
    """With Finish Background and Finish Upscale: the player has the finished size, and lets through what is behind."""
    place = server.base / "models" / "upscale_models"
    place.mkdir(parents=True, exist_ok=True)
    write_upscale_model(place / "tiny.safetensors")
    page = open_page(node_type="LiveAvatar_FinishUpscale", bypass_csp=True)
    page.page.evaluate(PIECES)
    gate, decode = gated(page, 960), page.node_id(DECODE)
    mask, loader = page.add_node("OddBackground", -900, 900), page.add_node("UpscaleModelLoader", -900, 1000)
    background = page.add_node("LiveAvatar_FinishBackground", -600, 900)
    upscale = page.add_node("LiveAvatar_FinishUpscale", -300, 900)
    page.set_widget(loader, "model_name", "tiny.safetensors")
    page.connect(mask, "BACKGROUND_REMOVAL", background, "background_model")
    page.connect(loader, "UPSCALE_MODEL", upscale, "upscale_model")
    page.connect(background, "finishing", upscale, "finishing")
    page.connect(upscale, "finishing", decode, "finishing")
    page.set_widget(decode, "codec", "vp9")
    page.show_node(decode)
    page.press_run()
    wait_for_time(page, decode, 1.2 * BLOCK_SECONDS)
    assert facts(page, decode)["width"] == 128 and alpha_shown(page, decode) == [True, False]
    page.screenshot("player-transparent-live")
    (server.input / gate).touch()
    page.wait_until_done()
    shown_file(page, decode)
    assert alpha_shown(page, decode) == [True, False]
    assert "Finished frames: 128x128, 16 fps, 96 frames, transparent" in page.notes(decode)
    page.screenshot("player-transparent")
    assert not page.errors


def alpha_shown(page: ComfyPage, node: str) -> list[bool]:
    """Whether the upper corner and the middle of the picture that is shown let through what is behind."""
    script = """(v) => { const canvas = Object.assign(document.createElement('canvas'), { width: 128, height: 128 });
        const pen = canvas.getContext('2d'); pen.drawImage(v, 0, 0);
        return [[4, 4], [64, 64]].map(([x, y]) => pen.getImageData(x, y, 1, 1).data[3] < 128); }"""
    video = page.video(node)
    squares = video.evaluate("(v) => getComputedStyle(v.parentElement).backgroundImage")
    assert "gradient" in squares, squares
    return video.evaluate(script)
