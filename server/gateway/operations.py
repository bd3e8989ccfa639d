"""Pages for operators: health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.gateway.asgi import Page
from server.gateway.codec import dumps
from server.gateway.replies import Reply

Ready = Callable[[], Awaitable[Sequence[str]]]
"""Returns a line for each fault, such as `database: down`; none when all is well."""


def operation_pages(ready: Ready, degraded: Ready | None = None) -> dict[str, Page]:
    """Returns `/healthz/live`, `/healthz/ready` and `/metrics`.

    Args:
        ready: What keeps this process from serving.
        degraded: What is down while it serves on.
    """

    async def live_page() -> Reply:
        return Reply(200, dumps({"status": "SERVING"}), headers={"cache-control": "no-store"})

    async def ready_page() -> Reply:
        missing = await ready()
        if missing:
            return Reply(503, dumps({"status": "NOT_SERVING", "missing": list(missing)}))
        down = list(await degraded()) if degraded else []
        body = {"status": "SERVING", "degraded": down} if down else {"status": "SERVING"}
        return Reply(200, dumps(body), headers={"cache-control": "no-store"})

    async def metrics_page() -> Reply:
        return Reply(200, generate_latest(), CONTENT_TYPE_LATEST, {"cache-control": "no-store"})

    return {"/healthz/live": live_page, "/healthz/ready": ready_page, "/metrics": metrics_page}
