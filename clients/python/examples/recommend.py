"""Recommends for a couple of the demo tenant, saves the first item for them, and shows how the list changes.

Start the server with `make up`, then run `python clients/python/examples/recommend.py [HOST:PORT [KEY]]`.
"""

from __future__ import annotations

import asyncio
import sys

from aisle_client import AisleClient, AisleError

USER = "couple-000001"


async def main(target: str, key: str) -> None:
    """Prints two lists: before and after the couple saves the first item."""
    async with AisleClient(target, key=key) as client:
        before = await client.recommend_items(USER, max_results=8, explain=True)
        print(f"{USER}, by bundle {before.bundle or 'none'} on {before.runtime or 'no runtime'}:")
        for place, ranked in enumerate(before.items, 1):
            item = await client.get_item(ranked.item)
            reason = f": {ranked.reasons[0].text}" if ranked.reasons else ""
            print(f"{place:3}. {item.title} ({', '.join(item.categories)}){reason}")
        if not before.items:
            print("The catalogue is empty; `aisle demo generate` makes one to import.")
            return
        first = before.items[0].item
        token = await client.track(USER, "save", first)
        after = await client.recommend_items(USER, max_results=8, consistency_token=token)
        old = [ranked.item for ranked in before.items]
        print(f"\nAfter saving {first} (seen by this reply: {after.consistent}):")
        for place, ranked in enumerate(after.items, 1):
            print(f"{place:3}. {ranked.item} {f'was {old.index(ranked.item) + 1}' if ranked.item in old else 'new'}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051", sys.argv[2] if len(sys.argv) > 2 else ""))
    except AisleError as error:
        sys.exit(f"recommend: {error}")
