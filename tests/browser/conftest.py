"""A real browser on the session's ComfyUI."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comfy_page import ARGUMENTS, RENDERERS, ComfyPage
from comfy_server import ComfyServer
from playwright.sync_api import Browser, sync_playwright

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


# Not for the whole session: while Playwright runs, no other test could use asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of this machine: CHROMIUM_PATH, which scripts/test.sh sets, or what is on PATH."""
    path = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium or Chrome found: run bash scripts/test.sh, or set CHROMIUM_PATH"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS.split())
        yield launched
        launched.close()


@pytest.fixture(params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> str:
    """Both ways of drawing nodes; a test that wants one only is marked
    `@pytest.mark.parametrize("renderer", ["classic"], indirect=True)`."""
    return request.param


@pytest.fixture
def open_page(
    browser: Browser, server: ComfyServer, renderer: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., ComfyPage]]:
    """open_page(locale="en", query="") opens a tab with ComfyUI; all are closed after the test. bypass_csp: as if the
    server had been started without --disable-api-nodes, which sends a content security policy."""
    pages: list[ComfyPage] = []

    def opened(
        locale: str = "en", node_type: str = "LoadImage", query: str = "", bypass_csp: bool = False
    ) -> ComfyPage:
        pages.append(ComfyPage(browser, server, renderer, ARTIFACTS, locale, bypass_csp))
        return pages[-1].open(node_type, query)

    yield opened
    for page in pages:
        page.close()


@pytest.fixture
def comfy_page(open_page: Callable[..., ComfyPage]) -> ComfyPage:
    """A tab with ComfyUI, in English, at its first start."""
    return open_page()
