"""`python -m loadtest.bench.caches`: hit rates on replays of real sessions, against LRU of the same bytes and against the future known.

A replay draws users by Zipf's law over their ranks (users with more interactions first, exponent 1). Each draw is a session: the user goes
on through their own recorded interactions, in order, where their last session ended, for 8 pages; 64 sessions run at once, taking turns. A
page reads the user's profile and the list of items similar to the page's item. Entries have the size that the server's have: a profile 300
bytes and 90 for each interaction it holds (200 at most), a list 2,500 bytes, both with 400 bytes of bookkeeping. Nothing is
invalidated: what is compared is what to keep. Sizes of caches are shares of the bytes of all entries that the replay reads.

Data: `--data` holds `yelp/train.csv` and `movielens-100k/events.csv` (user_id, item_id, ..., occurred_at). What is missing is skipped.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.bench.cache_policies import Lru, Policy, Read, S3Fifo, WTinyLfu, belady_hits
from server.cache.memory import ENTRY_OVERHEAD_BYTES, Key, MemoryCache, Stored
from server.domain import TenantId

DATA = {"yelp": "yelp/train.csv", "movielens-100k": "movielens-100k/events.csv"}
SHARES = (0.1, 0.2, 0.4)
_SESSION_PAGES = 8
_AT_ONCE = 64
_LIST_BYTES = 2500
_PROFILE_BYTES = 300
_INTERACTION_BYTES = 90
_HISTORY = 200
_TENANT = TenantId("replay")


class Server:
    """The server's own cache, with values of the right length."""

    def __init__(self, max_bytes: int) -> None:
        self._cache = MemoryCache(max_bytes, longest_s=1e9)
        self._ends_s = time.time() + 1e6

    def read(self, key: Hashable, size: int) -> bool:
        """As `Policy`."""
        full = Key(_TENANT, "replay", str(key))
        if self._cache.get(full) is not None:
            return True
        self._cache.put(full, Stored(bytes(size - ENTRY_OVERHEAD_BYTES - len(str(key))), self._ends_s))
        return False


def sessions(path: Path, pages: int, seed: int = 0) -> list[Read]:
    """Returns the reads of a replay of so many pages, two a page."""
    with path.open(newline="") as file:
        rows = [(row["user_id"], row["item_id"], float(row["occurred_at"])) for row in csv.DictReader(file)]
    histories: defaultdict[str, list[str]] = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        histories[user].append(item)
    users = sorted(histories, key=lambda user: (-len(histories[user]), user))
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(users) + 1)))
    chance = random.Random(seed)  # noqa: S311  # a replay that can be repeated
    places: defaultdict[str, int] = defaultdict(int)
    running: list[tuple[str, int]] = []
    reads: list[Read] = []
    while len(reads) < 2 * pages:
        while len(running) < _AT_ONCE:
            running.append((chance.choices(users, cum_weights=weights)[0], _SESSION_PAGES))
        turn = chance.randrange(len(running))
        user, left = running[turn]
        history = histories[user]
        item = history[places[user] % len(history)]
        places[user] += 1
        profile = ENTRY_OVERHEAD_BYTES + _PROFILE_BYTES + _INTERACTION_BYTES * min(_HISTORY, len(history))
        reads += [(f"profile:{user}", profile), (f"similar:{item}", ENTRY_OVERHEAD_BYTES + _LIST_BYTES)]
        if left > 1:
            running[turn] = (user, left - 1)
        else:
            running.pop(turn)
    return reads


def hit_rates(reads: list[Read], share: float) -> dict[str, float]:
    """Returns the share of reads that find their key, by policy, in a cache of a share of the bytes read. The first half warms up."""
    sizes = dict(reads)
    max_bytes = int(share * sum(sizes.values()))
    policies: dict[str, Policy] = {
        "LRU": Lru(max_bytes),
        "S3-FIFO": S3Fifo(max_bytes),
        "W-TinyLFU": WTinyLfu(max_bytes, int(share * len(sizes))),
        "Aisle": Server(max_bytes),
    }
    half = len(reads) // 2
    found: dict[str, float] = {}
    for name, policy in policies.items():
        hits = [policy.read(key, size) for key, size in reads]
        found[name] = sum(hits[half:]) / (len(reads) - half)
    found["Belady"] = (belady_hits(reads, max_bytes) - belady_hits(reads[:half], max_bytes)) / (len(reads) - half)
    return found


def main() -> None:
    """Replays and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.caches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--pages", type=int, default=200_000, help="pages of a replay (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    table = Table("replay", "bytes", "LRU", "S3-FIFO", "W-TinyLFU", "Aisle", "Belady", "Aisle of Belady")
    figures: dict[str, dict[str, float]] = {}
    for name, path in DATA.items():
        if not (arguments.data / path).exists():
            print(f"{name}: skipped, {arguments.data / path} does not exist", file=sys.stderr)
            continue
        reads = sessions(arguments.data / path, arguments.pages)
        for share in SHARES:
            found = hit_rates(reads, share)
            figures[f"{name} {share:.0%}"] = found
            rates = [f"{found[policy]:.4f}" for policy in ("LRU", "S3-FIFO", "W-TinyLFU", "Aisle", "Belady")]
            table.add_row(name, f"{share:.0%}", *rates, f"{found['Aisle'] / found['Belady']:.3f}")
    Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
