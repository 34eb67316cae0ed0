"""Who may speak to a live session: pages of this server, and programs that have its token."""

import secrets
from urllib.parse import urlsplit

from aiohttp import web

from .session import LiveSession, session_named

BEARER = "Bearer "


def check_origin(request: web.Request) -> None:
    """Raises HTTPForbidden for pages of other servers, which ComfyUI refuses on this machine only, unless its user
    allows them (--enable-cors-header)."""
    from comfy.cli_args import args

    origin = request.headers.get("Origin")
    own = (request.host, request.headers.get("X-Forwarded-Host"))
    if origin is not None and urlsplit(origin).netloc not in own and args.enable_cors_header is None:
        raise web.HTTPForbidden(text="This is only for the page of this server.")


def asked_session(request: web.Request, may_change: bool = False) -> LiveSession:
    """The session in the address. `may_change`: a program, which sends no Origin, must have the session's token.

    Raises HTTPForbidden and HTTPNotFound.
    """
    check_origin(request)
    session = session_named(request.match_info["name"])
    if session is None:
        raise web.HTTPNotFound(text="There is no such live session: it is over, or ComfyUI was started again.")
    if may_change and "Origin" not in request.headers and not has_token(request, session):
        raise web.HTTPForbidden(
            text="Programs need the token of the live session, which Live Voice shows: Authorization: Bearer TOKEN"
        )
    return session


def has_token(request: web.Request, session: LiveSession) -> bool:
    given = request.headers.get("Authorization", "")
    return given.startswith(BEARER) and secrets.compare_digest(given[len(BEARER) :].encode(), session.token.encode())
