"""Messages of our own to the page that runs a prompt."""

from collections.abc import Callable, Mapping

from .comfy_types import Hidden, Server


class PageOfRun:
    """The page that has sent the prompt which runs now; `client` is "" where nobody listens."""

    def __init__(self) -> None:
        from server import PromptServer

        self._server: Server | None = getattr(PromptServer, "instance", None)
        self.client = (self._server.client_id if self._server is not None else None) or ""

    def tell(self, event: str, message: Mapping[str, object]) -> None:
        """From any thread; nothing where nobody listens."""
        if self._server is not None and self.client:
            self._server.send_sync(event, message, self.client)

    def in_server(self, function: Callable[..., None], *values: object) -> None:
        """Calls a function in the server's thread, where there is a page."""
        if self._server is not None and self.client:
            self._server.loop.call_soon_threadsafe(function, *values)


def workflow_of(hidden: Hidden) -> str:
    """The id of the workflow that a page has sent with the prompt, "" if it has not."""
    workflow = (hidden.extra_pnginfo or {}).get("workflow")
    return str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
