"""Online VAE Decode plays the video while it is made, and the finished file after that."""

from collections.abc import Callable

import pytest
from comfy_page import RENDERERS as ALL_RENDERERS
from comfy_page import ComfyPage

RENDERERS = list(ALL_RENDERERS)
SAMPLER, DECODE, SCHEDULER = "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode", "LiveAvatar_ClipScheduler"
BLOCK_SECONDS = 12 / 16
PIECES = """() => app.api.addEventListener('liveavatar.live', ({ detail }) => { detail.pieces = true; }, true)"""
FACTS = """(v) => ({ time: v.currentTime, paused: v.paused, error: v.error?.message ?? null, width: v.videoWidth,
    end: v.buffered.length ? v.buffered.end(0) : 0, duration: v.duration, source: v.currentSrc })"""


def gated(page: ComfyPage, seed: int, blocks: int = 3, frames: int = 48) -> str:
    """The short clip with a gate before the decoder, two clips; returns the name of the file that opens it."""
    page.open_template("short_clip")
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
    return page.player(node).locator(f'[data-action="player_{name}"]')


@pytest.mark.parametrize("policy", ["with policy", "ordinary"])
def test_plays_past_the_first_block_while_later_ones_are_sampled(
    open_page: Callable[..., ComfyPage], server, policy: str
) -> None:
    """ComfyUI started with --disable-api-nodes has a content security policy that forbids MediaSource."""
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
    page.screenshot(f"player-live-{policy.replace(' ', '-')}")
    (server.input / gate).touch()
    page.wait_until_done()
    # One element, one source: nothing is loaded again for a block; the finished file replaces it once.
    page.page.wait_for_function(
        "(e) => e.querySelector('video').currentSrc.includes('/view?')", arg=page.player(decode).element_handle()
    )
    wait_for_time(page, decode, 4 * BLOCK_SECONDS)
    assert facts(page, decode)["duration"] == pytest.approx(96 / 16, abs=0.1)
    page.screenshot(f"player-finished-{policy.replace(' ', '-')}")
    assert not page.errors
