"""`aisle gateway`: REST for any gRPC server, from its descriptor set or its reflection."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import grpc

    from server.gateway.descriptors import Described

_REFLECTION_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The command line."""

    descriptor_set: Path | None
    upstream: str
    tls: bool
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    http_host: str
    http_port: int
    title: str
    timeout_s: float
    max_bytes: int
    request_headers: tuple[str, ...]
    reply_headers: tuple[str, ...]
    cors_origins: tuple[str, ...]
    cache: tuple[str, ...]


@click.command()
@click.option(
    "--descriptor-set",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="FileDescriptorSet of the server's protos: `protoc --include_imports --include_source_info --descriptor_set_out=FILE`."
    " Without it the server is asked by gRPC reflection, which knows no comments.",
)
@click.option("--upstream", required=True, metavar="HOST:PORT", help="The gRPC server.")
@click.option("--tls", is_flag=True, help="Speak TLS with the server, and check its certificate.")
@click.option(
    "--tls-ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of the authorities to trust in place of the system's. Implies --tls.",
)
@click.option(
    "--tls-certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of a certificate to show the server. Implies --tls.",
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file of its private key.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 chooses a free port.")
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--title", default="API", show_default=True, help="Name of the API in its reference at /docs.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds a call may take, unless it says. Streams may last.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1024),
    default=4 * 1024 * 1024,
    show_default=True,
    help="Largest body and largest message, either way; of a compressed body when inflated.",
)
@click.option(
    "--header", "request_headers", multiple=True, metavar="NAME", help="Request header to pass on under its own name. May be repeated."
)
@click.option(
    "--reply-header", "reply_headers", multiple=True, metavar="NAME", help="Reply metadata to pass on under its own name. May be repeated."
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Origin whose pages may call; '*' for all. May be repeated."
)
@click.option("--cache", multiple=True, metavar="METHOD=SECONDS", help="Lets caches keep a method's replies to GET. May be repeated.")
def gateway(
    *,
    descriptor_set: Path | None,
    upstream: str,
    tls: bool,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    http_host: str,
    http_port: int,
    title: str,
    timeout_s: float,
    max_bytes: int,
    request_headers: tuple[str, ...],
    reply_headers: tuple[str, ...],
    cors_origins: tuple[str, ...],
    cache: tuple[str, ...],
) -> None:
    """Serves REST for a gRPC server whose methods carry `google.api.http` rules."""
    import uvloop

    options = _Options(
        descriptor_set=descriptor_set,
        upstream=upstream,
        tls=tls,
        tls_ca=tls_ca,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        http_host=http_host,
        http_port=http_port,
        title=title,
        timeout_s=timeout_s,
        max_bytes=max_bytes,
        request_headers=request_headers,
        reply_headers=reply_headers,
        cors_origins=cors_origins,
        cache=cache,
    )
    uvloop.run(_serve(options))


def _credentials(options: _Options) -> grpc.ChannelCredentials | None:
    import grpc

    from server.identity.tls import read_client_tls

    ca, certificate, key = (str(path or "") for path in (options.tls_ca, options.tls_certificate, options.tls_key))
    if not (options.tls or ca or certificate or key):
        return None
    tls = read_client_tls(ca=ca, certificate=certificate, key=key)
    return grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate)


async def _described(options: _Options, credentials: grpc.ChannelCredentials | None) -> Described:
    from server.gateway.descriptors import load_set
    from server.gateway.forwarding import open_channel
    from server.gateway.reflection import reflect

    if options.descriptor_set is not None:
        return load_set(options.descriptor_set.read_bytes())
    async with open_channel(options.upstream, max_message_bytes=options.max_bytes, credentials=credentials) as channel:
        return load_set(await reflect(channel, timeout_s=_REFLECTION_S))


async def _serve(options: _Options) -> None:
    from server.errors import InvalidArgumentError
    from server.gateway.build import build_gateway
    from server.gateway.forwarding import open_forwarding
    from server.gateway.policy import Policy, read_max_ages, read_origins
    from server.gateway.rules import build_table
    from server.gateway.server import open_gateway
    from server.telemetry import configure_logging

    configure_logging("info")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    credentials = _credentials(options)
    described = await _described(options, credentials)
    if not build_table(described.methods).routes:
        raise InvalidArgumentError("no method of the descriptor set carries a google.api.http rule; annotate one, or check the file")
    policy = Policy(
        request_headers=frozenset(name.lower() for name in options.request_headers),
        reply_headers=frozenset(name.lower() for name in options.reply_headers),
        origins=read_origins(options.cors_origins),
        max_age_s=read_max_ages(options.cache, described.methods),
    )
    async with open_forwarding(
        options.upstream,
        described.methods,
        max_message_bytes=options.max_bytes,
        credentials=credentials,
        reply_headers=policy.reply_headers,
    ) as dispatcher:
        app = build_gateway(
            dispatcher,
            pool=described.pool,
            comments=described.comments,
            ready=dispatcher.ready,
            title=options.title,
            version="1",
            about=f"REST for the gRPC server at {options.upstream}.",
            max_body_bytes=options.max_bytes,
            default_timeout_s=options.timeout_s,
            mounts={},
            policy=policy,
        )
        address = f"{options.http_host}:{options.http_port}"
        async with open_gateway(app, address, drain_s=20.0, on_stop=app.end_streams, max_frame_bytes=options.max_bytes) as bound:
            click.echo(f"gateway ready http=http://{bound} upstream={options.upstream} reference=http://{bound}/docs")
            await stop.wait()
