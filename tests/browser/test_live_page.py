"""The page of a live session in a browser, with and without ComfyUI's content security policy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comfy_server import ComfyServer
from playwright.sync_api import Browser, Page

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
FACTS = """() => { const v = document.querySelector('video'), last = v.buffered.length - 1; return {
    time: v.currentTime, paused: v.paused, source: v.currentSrc, start: last < 0 ? 0 : v.buffered.start(0),
    ahead: last < 0 ? 0 : v.buffered.end(last) - v.currentTime }; }"""
PLAYS = "(s) => { const v = document.querySelector('video'); return !v.paused && v.videoWidth && v.currentTime > s; }"


@contextmanager
def live_page(browser: Browser, server: ComfyServer, name: str, policy: bool) -> Iterator[tuple[Page, list[str]]]:
    """The page of a stream that is being made, and what the browser complains of."""
    inputs = {"name": name, "stop": f"stop-{name}", "again": f"again-{name}", "fps": 25}
    context = browser.new_context(viewport={"width": 1100, "height": 720}, bypass_csp=not policy, locale="en-US")
    page, errors = context.new_page(), list[str]()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        # The page is there before the session is, and goes on by itself.
        page.goto(f"{server.url}/liveavatar/live/{name}")
        assert page.locator(".message").inner_text().startswith(("Waiting", "There is no such live session"))
        server.client.queue({"1": {"class_type": "OddBroadcast", "inputs": inputs}})
        yield page, errors
    finally:
        (server.input / f"stop-{name}").touch()
        context.close()


@pytest.mark.parametrize("policy", [False, True], ids=["ordinary", "with policy"])
def test_plays_at_the_edge_and_goes_on_after_a_reload_and_a_break(
    browser: Browser, server: ComfyServer, policy: bool
) -> None:
    name = f"page-{policy:d}"
    with live_page(browser, server, name, policy) as (page, errors):
        page.wait_for_function(PLAYS, arg=3)
        page.screenshot(path=ARTIFACTS / f"live-{name}.png")
        page.reload()
        page.wait_for_function(PLAYS, arg=4)
        facts = page.evaluate(FACTS)
        assert facts["source"].startswith("http" if policy else "blob:") and facts["start"] > 1, facts
        assert page.locator(".badge").inner_text() == "Live"
        (server.input / f"again-{name}").touch()
        page.wait_for_function("() => document.querySelector('video').currentTime < 2")
        page.wait_for_function(PLAYS, arg=2)
        # It comes closer by itself, whatever the machine was busy with.
        near = "() => { const b = document.querySelector('video'); return b.buffered.end(b.buffered.length - 1)"
        page.wait_for_function(f"{near} - b.currentTime < 0.8; }}")
        if not policy:
            (server.input / f"stop-{name}").touch()
            page.wait_for_function("() => document.querySelector('.message').textContent.includes('over')")
        assert not errors


def test_says_what_is_missing_to_speak(browser: Browser, server: ComfyServer) -> None:
    with live_page(browser, server, "page-mic", policy=False) as (page, errors):
        page.wait_for_function(PLAYS, arg=0.5)
        microphone = page.locator(".mic")
        assert microphone.inner_text() == "The avatar says what you say."
        page.locator("[data-action=speak]").click()
        page.wait_for_function("() => !['off', 'asking'].includes(document.querySelector('.mic').dataset.state)")
        assert re.match("The microphone was refused|No microphone was found", microphone.inner_text())
        page.evaluate("() => { delete Navigator.prototype.mediaDevices; }")
        page.locator("[data-action=speak]").click()
        assert "localhost and https" in microphone.inner_text()
        # This stream has no session that answers.
        page.locator("[data-do=pause]").click()
        page.wait_for_function("() => document.querySelector('.answer').textContent.startsWith('The server said')")
        assert not errors
