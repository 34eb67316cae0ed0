"""The page of a live session as the server gives it out: web/live_page.html, which finds its modules and its session
by its own address."""

import re
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

WEB = Path(__file__).parents[2] / "web"
PAGE = WEB / "live_page.html"
SESSION = re.compile(r"[\w-]{1,64}")
"""What a session may be called; the page is the same for all, and says itself when there is none of that name."""
MODULES = "MODULES"
"""In the page: where ComfyUI serves web/."""


def live_page(request: web.Request) -> web.Response:
    """Raises HTTPNotFound for an address that cannot be that of a session."""
    if SESSION.fullmatch(request.match_info["name"]) is None:
        raise web.HTTPNotFound(text="No such video is being made.")
    # ComfyUI serves our modules under the name of the pack's folder, and there is a second address for every route.
    up = "../../.." if request.path.startswith("/api/") else "../.."
    text = PAGE.read_text(encoding="utf-8").replace(MODULES, f"{up}/extensions/{quote(WEB.parent.name, safe='')}")
    headers = {"Cache-Control": "no-store", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "no-referrer"}
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)
