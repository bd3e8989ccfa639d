from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from server.cache.memory import Key, MemoryCache, Stored
from server.domain import TenantId

ACME = TenantId("acme")
SOON = time.time() + 3600


def _key(name: str) -> Key:
    return Key(ACME, "user", name)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000)), max_size=40))
def test_bytes_are_bounded(puts: list[tuple[str, int]]) -> None:
    """Whatever is put, the bytes in use stay within the limit, and what is found is what was put last."""
    cache = MemoryCache(4000)
    last: dict[str, bytes] = {}
    for name, size in puts:
        last[name] = bytes(size)
        cache.put(_key(name), Stored(last[name], SOON))
        assert cache.size_bytes <= 4000
    for name, value in last.items():
        found = cache.get(_key(name))
        assert found is None or found.value == value


def test_the_least_recently_read_leaves_first() -> None:
    """When bytes run out, the entry that was not read for longest goes."""
    cache = MemoryCache(3000)
    cache.put(_key("a"), Stored(bytes(1000), SOON))
    cache.put(_key("b"), Stored(bytes(1000), SOON))
    assert cache.get(_key("a")) is not None
    cache.put(_key("c"), Stored(bytes(1000), SOON))
    assert cache.get(_key("b")) is None
    assert cache.get(_key("a")) is not None


def test_what_does_not_fit_replaces_nothing_by_nothing() -> None:
    """A value larger than the cache is not kept, and the older value of its key is gone."""
    cache = MemoryCache(1000)
    cache.put(_key("a"), Stored(b"old", SOON))
    cache.put(_key("a"), Stored(bytes(5000), SOON))
    assert cache.get(_key("a")) is None


def test_entries_end() -> None:
    """An entry is not returned after its time, nor after the longest time any entry is kept."""
    cache = MemoryCache(10_000, longest_s=0.0)
    cache.put(_key("a"), Stored(b"x", SOON))
    assert cache.get(_key("a")) is None
    cache = MemoryCache(10_000)
    cache.put(_key("a"), Stored(b"x", time.time() - 1))
    assert cache.get(_key("a")) is None
