"""Where a live session is found."""

from .session import LiveSession

EVERYWHERE = ("0.0.0.0", "::")
"""What a server listens on that is reached from everywhere."""


def page_address(session: LiveSession) -> str:
    """Of its page, for a browser on this machine; only the path where no server runs."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    host, port = getattr(server, "address", None), getattr(server, "port", None)
    if host is None or port is None:
        return session.path
    host = "127.0.0.1" if host in EVERYWHERE else host
    from comfy.cli_args import args

    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{session.path}"
