"""`aisle train` and `aisle bundles`: from a tenant's data to what serves it."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from server.cli.bundle_text import bundle_text
from server.cli.command_database import command_database, run
from server.cli.training_tools import in_thread, metrics_table, progress_bar, text_encoder
from server.domain.ids import BundleId, ItemId, TenantId
from server.domain.items import Item, item_text
from server.domain.ranking import VIEW_DIMENSIONS
from server.errors import FailedPreconditionError, NotFoundError
from server.retrieval.bundle import REPORT_PAGE
from server.settings import Settings
from server.store import Database
from server.store import bundles as bundle_store
from server.store.bundles import StoredBundle
from server.store.decisions import iter_shown
from server.store.events import iter_interactions
from server.store.items import items_without_vector, list_items, set_text_vectors
from server.store.profiles import stated_profiles
from server.store.tenants import parse_tenant_id, tenant_exists

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.bundle import TrainedBundle
    from training.data import Progress, RawEvents
    from training.outcomes import Shown
    from training.pipeline import Engine

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_tenant = click.option("--tenant", required=True, help="Name of the tenant.")
_NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_PAGE = 1000
_ENCODED_AT_ONCE = 512
_PROFILES = 20_000
"""Users whose facts are read, some 2 kB each; training asks for a thousand."""


@click.command
@_tenant
@click.option("--promote", is_flag=True, help="Serve the bundle at once, if it ranks held-out interactions no worse than popularity.")
@click.option("--sequential/--no-sequential", default=True, show_default=True, help="Train the transformer, which takes most of the time.")
@click.option(
    "--goal-weights",
    default="",
    metavar="TYPE=NUMBER,...",
    help="What the ranker is to bring about, such as click=1,save=2,enquire=3,book=4. Types not listed keep their action weight.",
)
@click.option("--ray", "ray_address", default="", metavar="ADDRESS|local", help="Train on a Ray cluster, or on one started here for it.")
@_as_json
def train(tenant: str, *, promote: bool, sequential: bool, goal_weights: str, ray_address: str, as_json: bool) -> None:
    """Train a bundle from the tenant's items and events, compare it with simple baselines, and register it.

    Interrupted with Ctrl-C and called again, it goes on after the last finished epoch of the transformer.
    """
    trained, state = run(
        lambda: train_tenant(tenant, promote=promote, sequential=sequential, goal_weights=goal_weights, ray_address=ray_address)
    )
    if as_json:
        results = {name: {metric: found.to_json() for metric, found in row.items()} for name, row in trained.results.items()}
        _print_json({"bundle": trained.bundle_id, "state": state, "missing": trained.missing, "results": results})
    else:
        if trained.results:
            click.echo(metrics_table(trained.results))
        for sentence in trained.missing:
            click.echo(f"note: {sentence}")
        click.echo(f"bundles/{trained.bundle_id} {state}")
    if promote and state != "LIVE":
        raise FailedPreconditionError(
            f"bundles/{trained.bundle_id} is not promoted: on held-out interactions it ranks worse than popularity; look at the events, or "
            f"serve it all the same with: aisle bundles promote {trained.bundle_id} --tenant {tenant}",
            bundle=trained.bundle_id,
        )


async def train_tenant(
    tenant: str, *, promote: bool, sequential: bool = True, goal_weights: str = "", ray_address: str = ""
) -> tuple[TrainedBundle, str]:
    """Returns the registered bundle and its state."""
    from training.bundle import train as fit
    from training.goals import parse_goal_weights

    worth = parse_goal_weights(goal_weights)
    tenant_id = parse_tenant_id(tenant)
    with _engine(ray_address) as engine, progress_bar() as progress, tempfile.TemporaryDirectory(prefix="aisle-bundle-") as folder:
        async with command_database() as database:
            await _check_tenant(database, tenant_id)
            text_model = await _encode_missing(database, tenant_id, progress)
            items, vectors = await _read_items(database, tenant_id)
            if not items:
                raise FailedPreconditionError(f"tenants/{tenant} has no items; aisle import items FILE --tenant {tenant}", tenant=tenant)
            events = await _read_events(database, tenant_id, progress)
            shown = await _read_shown(database, tenant_id)
            async with database.tenant(tenant_id) as connection:
                profiles = await stated_profiles(connection, limit=_PROFILES)
            work = partial(
                fit,
                events,
                vectors,
                tenant_id=tenant_id,
                text_model=text_model,
                directory=Path(folder),
                items=items,
                shown=shown,
                profiles=profiles,
                worth=worth,
                sequential=sequential,
                checkpoints=Settings().cache_dir / "training",
                engine=engine,
            )
            trained = await in_thread(lambda told: work(progress=told), progress)
            progress("storing the bundle", 0.0)
            async with database.tenant(tenant_id) as connection:
                state = "EVALUATED" if trained.results else "TRAINED"
                stored = await bundle_store.register_bundle(connection, trained.bundle_id, trained.directory, trained.manifest, state=state)
                if promote and trained.passes:
                    stored = await bundle_store.promote_bundle(connection, trained.bundle_id)
            return trained, stored.state


def _engine(ray_address: str) -> AbstractContextManager[Engine | None]:
    if not ray_address:
        return nullcontext()
    from training.distributed import ray_engine

    return ray_engine(ray_address)


async def _check_tenant(database: Database, tenant_id: TenantId) -> None:
    async with database.system() as connection:
        if not await tenant_exists(connection, tenant_id):
            raise NotFoundError(f"tenants/{tenant_id}", f"tenant {tenant_id} does not exist; aisle tenants create {tenant_id}")


async def _encode_missing(database: Database, tenant_id: TenantId, progress: Progress) -> str:
    """Gives items their missing text vectors, a batch a transaction, so an interrupted run goes on; returns the model's version."""
    from training.views.semantic import encode_texts

    done = 0
    async with text_encoder() as encoder:
        while True:
            async with database.tenant(tenant_id) as connection:
                waiting = await items_without_vector(connection, encoder.version, _ENCODED_AT_ONCE)
            if not waiting:
                return encoder.version
            vectors = await encode_texts(
                encoder, [item_text(stored.item) for stored in waiting], cache_dir=None, progress=lambda _step, _share: None
            )
            async with database.tenant(tenant_id) as connection:
                pairs = [(stored, vector.astype("<f4").tobytes()) for stored, vector in zip(waiting, vectors, strict=True)]
                await set_text_vectors(connection, encoder.version, pairs)
            done += len(waiting)
            progress(f"encoding texts of items: {done}", 0.0)


async def _read_items(database: Database, tenant_id: TenantId) -> tuple[tuple[Item, ...], dict[ItemId, NDArray[np.float32]]]:
    """Returns what is recommended, and the text vectors."""
    items: list[Item] = []
    vectors: dict[ItemId, NDArray[np.float32]] = {}
    token = ""
    while True:
        async with database.tenant(tenant_id) as connection:
            page = await list_items(connection, page_size=_PAGE, page_token=token, content_type="")
        for stored in page.items:
            items.append(stored.item)
            if stored.text_vector is not None:
                vector = np.frombuffer(stored.text_vector, "<f4")
                if vector.shape == (VIEW_DIMENSIONS,) and vector.any():
                    vectors[stored.item.item_id] = vector
        token = page.next_page_token
        if not token:
            return tuple(items), vectors


async def _read_events(database: Database, tenant_id: TenantId, progress: Progress) -> RawEvents:
    from training.data import raw_events

    rows: list[tuple[str, str, str, float]] = []
    async with database.tenant(tenant_id) as connection:
        async for chunk in iter_interactions(connection, tenant_id):
            rows.extend((event.user_id, event.item_id, event.event_type, event.occur_time_s) for event in chunk)
            progress(f"reading events: {len(rows)}", 0.0)
    return raw_events(rows)


async def _read_shown(database: Database, tenant_id: TenantId) -> list[Shown]:
    from training.outcomes import Shown

    async with database.tenant(tenant_id) as connection:
        return [Shown(one.user_id, one.decide_time_s, one.items, one.context) async for one in iter_shown(connection, tenant_id)]


@click.group
def bundles() -> None:
    """List, show, promote and roll back what serves a tenant."""


@bundles.command("list")
@_tenant
@_as_json
def list_bundles_command(tenant: str, as_json: bool) -> None:
    """List the tenant's bundles, newest first."""

    async def work() -> list[StoredBundle]:
        async with command_database() as database:
            await _check_tenant(database, parse_tenant_id(tenant))
            async with database.tenant(parse_tenant_id(tenant)) as connection:
                return await bundle_store.list_bundles(connection)

    found = run(work)
    if as_json:
        _print_json([_summary(bundle) for bundle in found])
        return
    if not found:
        click.echo(f"no bundles; aisle train --tenant {tenant} makes one")
    for bundle in found:
        ndcg = bundle.manifest.get("metrics", {}).get("aisle", {}).get("ndcg@10", {}).get("value")
        score = "not evaluated" if ndcg is None else f"ndcg@10 {ndcg:.4f}"
        click.echo(f"{bundle.bundle_id}  {bundle.state:9}  {bundle.create_time:%Y-%m-%d %H:%M}  {score}")


@bundles.command("show")
@click.argument("bundle")
@_tenant
@click.option("--report", "report_file", type=_NEW_FILE, help="Write the bundle's report, a page for the browser, to this file.")
@_as_json
def show_bundle_command(bundle: str, tenant: str, report_file: Path | None, as_json: bool) -> None:
    """Show BUNDLE: metrics, lineage, weights and files."""

    async def work() -> StoredBundle:
        async with command_database() as database, database.tenant(parse_tenant_id(tenant)) as connection:
            found = await bundle_store.get_bundle(connection, _bundle_id(bundle))
            if report_file is not None:
                report_file.parent.mkdir(parents=True, exist_ok=True)
                await bundle_store.fetch_bundle_file(connection, found, REPORT_PAGE, report_file)
            return found

    found = run(work)
    if as_json:
        _print_json({**_summary(found), "manifest": dict(found.manifest)})
        return
    click.echo(bundle_text(found))
    if report_file is not None:
        click.echo(f"report: {report_file}")
    elif REPORT_PAGE in found.files:
        click.echo(f"report: aisle bundles show {found.bundle_id} --tenant {tenant} --report FILE writes it")


@bundles.command("promote")
@click.argument("bundle")
@_tenant
@_as_json
def promote_bundle_command(bundle: str, tenant: str, as_json: bool) -> None:
    """Make BUNDLE serve; the one before retires."""

    async def work() -> StoredBundle:
        async with command_database() as database, database.tenant(parse_tenant_id(tenant)) as connection:
            return await bundle_store.promote_bundle(connection, _bundle_id(bundle))

    _report(run(work), as_json=as_json)


@bundles.command("rollback")
@_tenant
@_as_json
def rollback_bundle_command(tenant: str, as_json: bool) -> None:
    """Make the bundle before the live one serve again."""

    async def work() -> StoredBundle:
        async with command_database() as database, database.tenant(parse_tenant_id(tenant)) as connection:
            return await bundle_store.rollback_bundle(connection)

    _report(run(work), as_json=as_json)


def _bundle_id(text: str) -> BundleId:
    return BundleId(text.removeprefix("bundles/"))


def _report(bundle: StoredBundle, *, as_json: bool) -> None:
    if as_json:
        _print_json(_summary(bundle))
    else:
        click.echo(f"bundles/{bundle.bundle_id} {bundle.state}")


def _summary(bundle: StoredBundle) -> dict[str, Any]:
    return {
        "bundle": bundle.bundle_id,
        "state": bundle.state,
        "create_time": bundle.create_time,
        "promote_time": bundle.promote_time,
        "previous_bundle": bundle.previous_bundle_id,
        "metrics": bundle.manifest.get("metrics", {}),
        "files": {name: {"bytes": file.size_bytes, "sha256": file.sha256} for name, file in bundle.files.items()},
    }


def _print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value).decode())
