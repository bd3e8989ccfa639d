"""`aisle gateway`: REST for any gRPC server, from its descriptor set."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click


@click.command()
@click.option(
    "--descriptor-set",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="FileDescriptorSet of the server's protos: `protoc --include_imports --include_source_info --descriptor_set_out=FILE`.",
)
@click.option("--upstream", required=True, metavar="HOST:PORT", help="The gRPC server, plaintext.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 chooses a free port.")
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--title", default="API", show_default=True, help="Name of the API in its reference at /docs.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds a call may take, unless it says.",
)
@click.option("--max-bytes", type=click.IntRange(min=1024), default=4 * 1024 * 1024, show_default=True, help="Largest message, either way.")
def gateway(descriptor_set: Path, upstream: str, http_port: int, http_host: str, title: str, timeout_s: float, max_bytes: int) -> None:
    """Serves REST for a gRPC server whose methods carry `google.api.http` rules."""
    import uvloop

    uvloop.run(
        _serve(descriptor_set.read_bytes(), upstream, f"{http_host}:{http_port}", title=title, timeout_s=timeout_s, max_bytes=max_bytes)
    )


async def _serve(descriptor_set: bytes, upstream: str, address: str, *, title: str, timeout_s: float, max_bytes: int) -> None:
    from server.errors import InvalidArgumentError
    from server.gateway.build import build_gateway
    from server.gateway.descriptors import load_set
    from server.gateway.forwarding import open_forwarding
    from server.gateway.rules import build_table
    from server.gateway.server import open_gateway
    from server.telemetry import configure_logging

    configure_logging("info")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    described = load_set(descriptor_set)
    if not build_table(described.methods).routes:
        raise InvalidArgumentError("no method of the descriptor set carries a google.api.http rule; annotate one, or check the file")
    async with open_forwarding(upstream, described.methods, max_message_bytes=max_bytes) as dispatcher:
        app = build_gateway(
            dispatcher,
            pool=described.pool,
            comments=described.comments,
            ready=dispatcher.ready,
            title=title,
            version="1",
            about=f"REST for the gRPC server at {upstream}.",
            max_body_bytes=max_bytes,
            default_timeout_s=timeout_s,
            mounts={},
        )
        async with open_gateway(app, address, drain_s=20.0) as bound:
            click.echo(f"gateway ready http=http://{bound} upstream={upstream} reference=http://{bound}/docs")
            await stop.wait()
