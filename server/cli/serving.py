"""`aisle up` and `aisle serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import click

from server.app import Endpoints, Serving, serving
from server.cli.demo_tenant import ensure_demo, ensure_local_key
from server.cli.models import build_with_progress
from server.cli.replicas import end_with, run_replicas
from server.domain import TenantId
from server.embedded import running_parts
from server.errors import FailedPreconditionError
from server.inference import BuiltEncoder
from server.settings import Settings
from server.store import open_database
from server.store.migrate import migrate
from server.telemetry import configure_logging

_OLDEST = 1.1
"""gRPC ends connections at their age give or take a tenth."""
_MOVING_S = 2.0
"""Seconds that a client gets to go once it was told to."""


class _Stop:
    """A stop signal. Before someone waits for it, and the second time, it is not taken, and the process gives up at once.

    SIGHUP leaves time: clients may stay until their connections are old. A stop signal after it ends that.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._hurry = asyncio.Event()
        self._awaited = False

    async def wait(self) -> None:
        """Returns when the signal came."""
        self._awaited = True
        await self._event.wait()

    def wanted(self, *, patiently: bool = False) -> bool:
        """Sends the signal; returns whether someone waited for it, or for more haste."""
        taken = self._awaited and not (self._event.is_set() if patiently else self._hurry.is_set())
        self._event.set()
        if not patiently:
            self._hurry.set()
        return taken

    @property
    def patient(self) -> bool:
        """Whether clients may stay for a while."""
        return not self._hurry.is_set()

    async def unless_hurried(self, work: Awaitable[None]) -> None:
        """Waits for the work, but no longer than until a stop signal that leaves no time."""
        tasks = [asyncio.ensure_future(work), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@click.command()
@click.option("--demo/--no-demo", default=True, help="Load the demo tenant if the database has no tenant.")
def up(demo: bool) -> None:
    """Runs every part that is not configured by URL, migrates, and serves until Ctrl-C."""
    settings = Settings()
    configure_logging(settings.log_level)
    encoder = build_with_progress(None, settings.cache_dir)
    _run(lambda stop: _up(settings, encoder, stop, demo=demo))


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the doors' ports.")
@click.option("--replica-of", type=int, default=0, hidden=True, help="One of several processes of this machine, of this parent.")
@click.option("--ready-fd", type=int, default=-1, hidden=True, help="Pipe that its parent reads a byte from when it serves.")
def serve(workers: int, replica_of: int, ready_fd: int) -> None:
    """Serves with the parts that AISLE_DATABASE_URL, AISLE_REDIS_URL and AISLE_TRITON_URL name. Run `aisle migrate` first.

    With several workers, SIGHUP replaces them one after another while the others serve.
    """
    settings = Settings()
    configure_logging(settings.log_level)
    if replica_of:
        end_with(replica_of)
    for name in ("database_url", "redis_url"):
        if not getattr(settings, name):
            raise FailedPreconditionError(f"AISLE_{name.upper()} is not set; set it, or run `aisle up` for embedded parts")
    if workers > 1:
        leaving_s = _leaving_s(settings) + settings.drain_s
        sys.exit(run_replicas(workers, [settings.grpc_address, settings.http_address], leaving_s=leaving_s))
    encoder = build_with_progress(None, settings.cache_dir)
    endpoints = Endpoints(settings.database_url, settings.redis_url, settings.triton_url)
    _run(lambda stop: _serve(settings, endpoints, encoder, stop, ready_fd=ready_fd), patient=bool(replica_of))


def _leaving_s(settings: Settings) -> float:
    """Returns the seconds in which all clients of a replaced worker have had their connections ended between calls."""
    return _OLDEST * settings.connection_age_s + _MOVING_S if settings.connection_age_s else settings.drain_s


def _run(work: Callable[[_Stop], Coroutine[Any, Any, None]], *, patient: bool = False) -> None:
    """Runs the work on uvloop. SIGINT and SIGTERM set its event; work that has not come to wait for it yet is cancelled.

    `patient`: SIGHUP sets it too, rather than to end the process.
    """
    import uvloop

    async def guarded() -> None:
        stop = _Stop()
        main = asyncio.create_task(work(stop))

        def on_signal() -> None:
            if not stop.wanted():
                main.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        if patient:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, partial(stop.wanted, patiently=True))
        try:
            await main
        except asyncio.CancelledError:
            _say("stopped before all was done")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())


async def _serve(settings: Settings, endpoints: Endpoints, encoder: BuiltEncoder, stop: _Stop, *, ready_fd: int) -> None:
    """Serves; `ready_fd`: pipe of the parent, which has other processes serve on the same ports. Negative: none."""
    async with serving(settings, endpoints, encoder, reuse_port=ready_fd >= 0) as doors:
        click.echo(f"aisle ready grpc={doors.grpc_address} http={doors.http_url}")
        if ready_fd >= 0:
            os.write(ready_fd, b"\n")
            os.close(ready_fd)
        await stop.wait()
        click.echo("stopping: finishing accepted requests", err=True)
        if stop.patient:
            await stop.unless_hurried(doors.leave(_leaving_s(settings)))


async def _up(settings: Settings, encoder: BuiltEncoder, stop: _Stop, *, demo: bool) -> None:
    async with running_parts(
        data_dir=settings.data_dir,
        database=not settings.database_url,
        redis=not settings.redis_url,
        triton=not settings.triton_url and settings.runtime != "local",
        model_files={"text_encoder": encoder.onnx},
        model_repository=settings.model_repository,
        progress=_say,
    ) as parts:
        endpoints = Endpoints(
            settings.database_url or parts.database_url, settings.redis_url or parts.redis_url, settings.triton_url or parts.triton_url
        )
        for applied in await migrate(endpoints.database_url):
            _say(f"migrated: {applied}")
        tenant_id = TenantId(settings.local_tenant)
        async with open_database(endpoints.database_url, max_connections=4) as database:
            if demo:
                await ensure_demo(database, tenant_id, progress=_say)
            key = await ensure_local_key(database, tenant_id, settings.data_dir)
        async with serving(settings, endpoints, encoder) as doors:
            _announce(doors, key, tenant_id)
            await stop.wait()
            _say("stopping: finishing accepted requests")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _announce(doors: Serving, key: str, tenant_id: TenantId) -> None:
    click.echo(f"aisle ready grpc={doors.grpc_address} http={doors.http_url} key={key} tenant={tenant_id}")
    click.echo(
        f"curl -s {doors.http_url}/v1/users/couple-000000:recommendItems -H 'authorization: Bearer {key}' "
        """-H 'content-type: application/json' -d '{"maxResults": 3, "explain": true}'"""
    )
    sys.stdout.flush()
