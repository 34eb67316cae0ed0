"""The server itself: it starts with the pack and answers."""

from comfy_server import PACK_NAME


def test_server_starts_and_reports_its_state(server):
    stats = server.client.get("/system_stats")
    assert stats["devices"][0]["type"] == "cpu"
    assert PACK_NAME in server.log_text(10_000) and not server.failed_imports()
