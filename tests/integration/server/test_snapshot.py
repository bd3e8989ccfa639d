"""A catalogue that comes from this machine's disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from aisle.v1 import recommendation_service_pb2 as pb
from server.demo.generate import Demo
from server.errors import UnavailableError
from server.inference import BuiltEncoder, open_inference
from server.service.bundle_folder import BundleFolder
from server.service.catalogues import Catalogues
from server.service.snapshots import Snapshots
from server.settings import Settings
from server.store import Database
from tests.fixtures_server import SHOP, Door


class _Away:
    """A database that nobody reaches."""

    def tenant(self, *_arguments: object, **_options: object) -> None:
        raise UnavailableError("database", "cannot be reached")


async def test_a_catalogue_is_served_from_its_snapshot_while_the_database_is_away(
    door: Door, database: Database, shop: Demo, encoder: BuiltEncoder, tmp_path: Path
) -> None:
    """A process that starts while Postgres is down serves what was saved; without a snapshot it is UNAVAILABLE."""
    repository = Settings().model_repository
    bundles, snapshots = tmp_path / "bundles", Snapshots(tmp_path / "snapshots")
    async with open_inference(triton_url="", encoder=encoder, model_repository=repository, threads=1, runtime="local") as inference:
        first = Catalogues(database, inference, BundleFolder(database, bundles), snapshots)
        before = await first.get(SHOP)
        await asyncio.to_thread(snapshots.save, before, inference.encoder.version)
        await first.close()
        away = _Away()
        second = Catalogues(away, inference, BundleFolder(away, bundles), snapshots)  # type: ignore[arg-type]  # stands for an outage
        after = await second.get(SHOP)
        await second.refresh(SHOP, deadline=time.monotonic() + 1)
        await second.close()
        assert [item.item_id for item in after.index] == [item.item_id for item in before.index]
        assert after.bundle_id == before.bundle_id != ""
        assert after.content.keys() == before.content.keys() != set()
        third = Catalogues(away, inference, BundleFolder(away, bundles), Snapshots(tmp_path / "none"))  # type: ignore[arg-type]  # as above
        with pytest.raises(UnavailableError):
            await third.get(SHOP)
        await third.close()
    reply = await door.call("RecommendationService/RecommendItems", pb.RecommendItemsRequest(user="users/x"), pb.RecommendItemsResponse)
    assert reply.items
