"""A registered bundle in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from server.cli.training_tools import results_table
from server.store.bundles import StoredBundle


def bundle_text(bundle: StoredBundle) -> str:
    """Returns state, metrics, lineage, weights and files of a bundle; what its manifest lacks is left out."""
    return "\n".join(_lines(bundle))


def _lines(bundle: StoredBundle) -> Iterator[str]:
    manifest = bundle.manifest
    promoted = f", promoted {_moment(bundle.promote_time)}" if bundle.promote_time else ""
    yield f"bundles/{bundle.bundle_id} {bundle.state}, trained {_moment(bundle.create_time)}{promoted}"
    if bundle.previous_bundle_id:
        yield f"before it: bundles/{bundle.previous_bundle_id}"
    if lineage := manifest.get("lineage"):
        yield _fitted_on(lineage, manifest.get("items"))
    if results := manifest.get("metrics"):
        yield results_table(results)
    else:
        yield "not evaluated: too little could be held out"
    for title, part in (("fusion", "fusion"), ("decays", "decays"), ("view weights", "view_weights")):
        if weights := manifest.get(part):
            yield f"{title}: " + ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    size = sum(file.size_bytes for file in bundle.files.values())
    yield f"{len(bundle.files)} files, {size / 1e6:.1f} MB:"
    for name, file in sorted(bundle.files.items()):
        yield f"  {name:28}{file.size_bytes:>14,}  {file.sha256[:16]}"


def _fitted_on(lineage: Mapping[str, Any], items: int | None) -> str:
    first, last = lineage.get("first_event_s"), lineage.get("last_event_s")
    span = (
        f", {_moment(datetime.fromtimestamp(first, UTC))} to {_moment(datetime.fromtimestamp(last, UTC))}"
        if first is not None and last is not None
        else ""
    )
    catalogue = f"; {items} items can be recommended" if items is not None else ""
    return f"fitted on {lineage['events']} events of {lineage['users']} users{span}{catalogue}"


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
