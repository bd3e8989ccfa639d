"""What users of a scenario do: journeys of the demo world, or recorded ones.

A file of journeys is one that `aisle import events` reads: JSON lines with `user_id`, `item_id`, `event_type` and `occurred_at`.
`python -m loadtest.journeys --tenant T --out FILE` writes one from the `events` table, `aisle demo generate` one of an invented world.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GENERATED = 200
"""Journeys that are generated where no file is named."""


class JourneyFileError(Exception):
    """A file holds no journeys; the message names the line and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One act of a user."""

    item: str
    """`items/ID`."""
    event_type: str


def read_journeys(lines: Iterable[str], name: str) -> list[list[Step]]:
    """Returns each user's steps, oldest first; users in the order in which they are met. Events without an item are left out.

    Args:
        lines: JSON lines; empty ones are passed over.
        name: The file, for messages.

    Raises:
        JourneyFileError: A line is no JSON object with the four fields, or no line has an item.
    """
    users: dict[str, list[tuple[str, Step]]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            user, event_type, moment = row["user_id"], row["event_type"], row["occurred_at"]
            if row.get("item_id"):
                users[str(user)].append((str(moment), Step(f"items/{row['item_id']}", str(event_type))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else "is no JSON object"
            raise JourneyFileError(f"{name}, line {number}: {what}; write such a file with `python -m loadtest.journeys`") from error
    if not users:
        raise JourneyFileError(f"{name}: no event of an item; write such a file with `python -m loadtest.journeys --tenant TENANT`")
    return [[step for _, step in sorted(steps, key=lambda one: one[0])] for steps in users.values()]


def generated_journeys(count: int = GENERATED, *, seed: int = 7) -> list[list[Step]]:
    """Returns the journeys of invented couples over the demo catalogue: looking around, comparing, saving, enquiring, booking."""
    from server.demo import couples_with_journeys

    _, couples = couples_with_journeys(count, seed, datetime.now(UTC))
    found = [[Step(f"items/{one.item_id}", one.event_type) for one in events if one.item_id] for _, events in couples]
    return [steps for steps in found if steps]


async def _export(tenant: str, out: Path, users: int) -> int:
    from server.cli.command_database import command_database
    from server.domain import TenantId

    # Whole users, those with the newest events, so that journeys are not cut.
    query = """
        SELECT user_id, item_id, event_type, occur_time FROM events
        WHERE item_id IS NOT NULL AND user_id IN (SELECT user_id FROM events GROUP BY user_id ORDER BY max(occur_time) DESC LIMIT $1)
        ORDER BY user_id, occur_time, arrival"""
    numbers: dict[str, int] = {}
    count = 0
    async with command_database() as database, database.tenant(TenantId(tenant)) as connection:
        rows: list[Any] = await connection.fetch(query, users)
    with out.open("w", encoding="utf-8") as file:
        for row in rows:
            # Who it was is nobody's business in a load test.
            user = f"recorded-{numbers.setdefault(row['user_id'], len(numbers)):06d}"
            one = {
                "user_id": user,
                "item_id": row["item_id"],
                "event_type": row["event_type"],
                "occurred_at": row["occur_time"].isoformat(),
            }
            file.write(json.dumps(one) + "\n")
            count += 1
    return count


def main() -> None:
    """Writes a tenant's newest journeys, users by number instead of name."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.journeys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenant", required=True, help="whose events")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--users", type=int, default=1000, help="most users, those with the newest events (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.users < 1:
        parser.error("--users must be at least 1")
    count = asyncio.run(_export(arguments.tenant, arguments.out, arguments.users))
    if not count:
        sys.exit(f"loadtest: tenant {arguments.tenant} has no events of items; `aisle import events` brings some")
    print(f"{count} events in {arguments.out}")


if __name__ == "__main__":
    main()
