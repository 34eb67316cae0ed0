"""Who speaks into the live page is spoken back: a real microphone of Chromium's, which plays a file."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from comfy_page import ARGUMENTS
from comfy_server import ROOT, ComfyServer
from live_session import LiveRun
from playwright.sync_api import Browser, sync_playwright
from prompt_builder import PromptBuilder

from benchmarks.live import KEEP_STREAM, TAKE, WATCH, speech

SPOKEN_SECONDS = 6.0


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose microphone says the demo's voice, over and over."""
    path, _ = speech(tmp_path_factory.mktemp("voice"))
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
    device = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    arguments = [*ARGUMENTS.split(), *device, f"--use-file-for-fake-audio-capture={path}"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, headless=True, args=arguments)
        yield launched
        launched.close()


def test_the_avatar_says_what_is_said_and_a_closed_tab_says_nothing_more(
    speaking: Browser, server: ComfyServer
) -> None:
    workflow = json.loads((ROOT / "workflows" / "live_talk.json").read_text(encoding="utf-8"))
    prompt = PromptBuilder(workflow, server.client.object_info())
    prompt.set("LiveAvatar_LiveOut", record=True)
    prompt.set("LiveAvatar_ClipScheduler", seed=91)
    with LiveRun(server, prompt) as live:
        context = speaking.new_context(permissions=["microphone"], bypass_csp=True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(KEEP_STREAM)
        page.goto(live.page)
        page.wait_for_function("() => document.querySelector('video').currentTime > 1")
        page.click("[data-action=speak]")
        page.wait_for_function("() => window.heardStream")
        page.evaluate(WATCH)
        begun = live.state()["seconds"]
        # Until what was said in these seconds has been shown too.
        told = live.until(lambda state: state["seconds"] > begun + SPOKEN_SECONDS + 3)
        mouth = np.array(page.evaluate(TAKE)["frames"])[:, 2]
        context.close()
        closed = live.state()["seconds"]
        # A slow machine is up to two seconds behind what came before.
        live.until(lambda state: state["seconds"] > closed + 4)
    assert told["latency"] is not None and told["latency"][0] > 0.3, told
    assert (mouth > 3).sum() > 25 and (mouth == 0).sum() > 10, "it opens and it shuts"
    (saved,) = live.end().outputs[prompt.id("LiveAvatar_LiveOut")]["images"]
    loud = loudness(server.output / saved["subfolder"] / saved["filename"])
    assert (loud > 0.02).sum() > 0.5 * SPOKEN_SECONDS / 0.1, (
        "all that was said is in the recording, not its beginning alone"
    )
    assert not (loud[-10:] > 0.02).any(), "nobody is heard any more"


def loudness(path: Path) -> np.ndarray:
    """Of each tenth of a second of a video's sound."""
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    parts = samples[: len(samples) // 4800 * 4800].reshape(-1, 4800)
    return np.sqrt((parts**2).mean(axis=1))
