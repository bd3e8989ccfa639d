"""`aisle demo generate`: the demo tenant as files that `aisle import` reads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from server.demo import couples_with_journeys
from server.domain import Event, Item, Profile
from server.errors import FailedPreconditionError

_NAMES = ("items.jsonl", "users.jsonl", "events.jsonl")


def _line(row: Mapping[str, Any]) -> bytes:
    """Returns one JSON line. Empty values are left out: importers take them for absent."""
    return orjson.dumps({key: value for key, value in row.items() if value not in (None, "", [])}, option=orjson.OPT_APPEND_NEWLINE)


def _item_line(item: Item) -> bytes:
    return _line(
        {
            "item_id": item.item_id,
            "title": item.title,
            "description": item.description,
            "categories": list(item.categories),
            "attributes": item.attributes,
            "content_type": item.content_type,
            "price": item.price,
            "currency": item.currency,
            "language": item.language,
            "available_from": item.available_from,
            "available_until": item.available_until,
        }
    )


def _user_line(user: Profile) -> bytes:
    return _line(
        {
            "user_id": user.user_id,
            "traits": user.traits,
            "locale": user.locale,
            "time_zone": user.time_zone,
            "event_date": user.event_date,
        }
    )


def _event_line(event: Event) -> bytes:
    return _line(
        {
            "event_id": event.event_id,
            "user_id": event.user_id,
            "item_id": event.item_id,
            "event_type": event.event_type,
            "occurred_at": event.occur_time,
            "session_id": event.session_id,
            "properties": event.properties,
        }
    )


def write_files(out: Path, *, size: int, seed: int, now: datetime, vendors_a_city: int) -> int:
    """Writes the three files and returns the number of events. Files get their names when all are whole, so none is ever half-written.

    Events stand couple by couple, each couple's oldest first. Memory does not grow with `size`.

    Raises:
        FailedPreconditionError: The folder cannot be written.
        InvalidFieldError: A number is out of range.
    """
    from rich.console import Console
    from rich.progress import track

    count = 0
    parts = [out / f"{name}.part" for name in _NAMES]
    items, couples = couples_with_journeys(size, seed, now, vendors_a_city=vendors_a_city)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for part in parts:
                stack.callback(part.unlink, missing_ok=True)
            with parts[0].open("wb") as item_file, parts[1].open("wb") as user_file, parts[2].open("wb") as event_file:
                item_file.writelines(map(_item_line, items))
                for user, events in track(couples, "Couples", total=size, console=Console(stderr=True)):
                    user_file.write(_user_line(user))
                    event_file.writelines(map(_event_line, events))
                    count += len(events)
            for part in parts:
                part.rename(part.with_suffix(""))
    except OSError as error:
        raise FailedPreconditionError(f"{out}: {error.strerror}; choose another folder with --out", path=out) from error
    return count


@click.group()
def demo() -> None:
    """The demo tenant: an invented catalogue of wedding vendors and couples who plan with it."""


@demo.command("generate")
@click.option("--size", type=click.IntRange(min=1), default=1000, show_default=True, help="Couples.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same world.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"), show_default=True, help="Folder for the files."
)
@click.option(
    "--vendors", "vendors_a_city", type=click.IntRange(1, 1000), default=20, show_default=True, help="Vendors of a category in a city."
)
@click.option("--now", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="Moment (UTC) at which the story stops. Default: now.")
def generate(size: int, seed: int, out: Path, vendors_a_city: int, now: datetime | None) -> None:
    """Writes items.jsonl, users.jsonl and events.jsonl."""
    moment = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    events = write_files(out, size=size, seed=seed, now=moment, vendors_a_city=vendors_a_city)
    click.echo(f"{size} couples with {events} events, in {out}/{{{','.join(_NAMES)}}}")
