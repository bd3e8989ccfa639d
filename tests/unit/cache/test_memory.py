from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cache.memory import ENTRY_OVERHEAD_BYTES, Key, MemoryCache, Stored
from server.cache.sketch import Sketch
from server.domain import TenantId

ACME = TenantId("acme")
SOON = time.time() + 3600


class Clock:
    """Both clocks of the machine, under control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self._monotonic_s = time.time(), time.monotonic()
        clocks = SimpleNamespace(time=lambda: self.wall_s, monotonic=lambda: self._monotonic_s)
        monkeypatch.setattr("server.cache.memory.time", clocks)

    def advance(self, seconds: float) -> None:
        """Lets time go by."""
        self.wall_s += seconds
        self._monotonic_s += seconds


def _key(name: str, tenant: str = "acme") -> Key:
    return Key(TenantId(tenant), "user", name)


@given(
    st.lists(
        st.tuples(st.sampled_from(["get", "put", "forget"]), st.sampled_from("abcdef"), st.integers(0, 3000), st.sampled_from(["x", "y"])),
        max_size=80,
    )
)
def test_bytes_are_bounded_and_what_is_found_is_what_was_put_last(steps: list[tuple[str, str, int, str]]) -> None:
    """Whatever is read, put and forgotten, bytes stay within the limit and add up, and no value is found but the last one put."""
    cache = MemoryCache(5000)
    last: dict[Key, bytes] = {}
    for step, name, size, tenant in steps:
        key = _key(name, tenant)
        if step == "put":
            last[key] = bytes([len(last) % 256]) * size
            cache.put(key, Stored(last[key], SOON))
        elif step == "forget":
            last.pop(key, None)
            cache.forget([key])
        else:
            found = cache.get(key)
            assert found is None or found.value == last.get(key)
        assert cache.size_bytes <= 5000
        used = [cache.used_by(TenantId(one)) for one in "xy"]
        assert sum(bytes_ for _, bytes_ in used) == cache.size_bytes
        assert (sum(entries for entries, _ in used) == 0) == (cache.size_bytes == 0)


def test_what_is_read_often_outlives_a_scan() -> None:
    """A hundred times as many entries, each read once, displace few of those that are read all the time."""
    cache = MemoryCache(100 * (ENTRY_OVERHEAD_BYTES + 602))
    hot = [_key(f"h{number}") for number in range(50)]
    for key in hot:
        cache.put(key, Stored(bytes(600), SOON))
        for _ in range(5):
            cache.get(key)
    for number in range(5000):
        key = _key(f"c{number}")
        if cache.get(key) is None:
            cache.put(key, Stored(bytes(600), SOON))
        cache.get(hot[number % 50])
    assert sum(cache.get(key) is not None for key in hot) > 40


def test_what_becomes_popular_gets_in() -> None:
    """When what people read changes altogether, the new entries take the places of the old."""
    cache = MemoryCache(50 * (ENTRY_OVERHEAD_BYTES + 602))
    chance = random.Random(1)
    for era in range(2):
        hits = []
        for _ in range(20_000):
            key = _key(f"{era}{chance.randrange(40)}")
            hits.append(cache.get(key) is not None)
            if not hits[-1]:
                cache.put(key, Stored(bytes(600), SOON))
        assert sum(hits[-1000:]) > 900


def test_a_tenant_leaves_room_for_others() -> None:
    """One of several tenants keeps at most its share, whatever it reads; a lone tenant may use all."""
    cache = MemoryCache(100_000, tenant_share=0.5)
    for number in range(500):
        cache.put(_key(f"a{number}", "greedy"), Stored(bytes(500), SOON))
    assert cache.used_by(TenantId("greedy"))[1] > 90_000
    cache.put(_key("b", "modest"), Stored(bytes(500), SOON))
    for number in range(500):
        cache.get(_key("b", "modest"))
        cache.put(_key(f"c{number}", "greedy"), Stored(bytes(500), SOON))
    if cache.used_by(TenantId("modest"))[0]:
        assert cache.used_by(TenantId("greedy"))[1] <= 50_000


def test_what_does_not_fit_replaces_nothing_by_nothing() -> None:
    """A value larger than the cache is not kept, and the older value of its key is gone."""
    cache = MemoryCache(1000)
    cache.put(_key("a"), Stored(b"old", SOON))
    cache.put(_key("a"), Stored(bytes(5000), SOON))
    assert cache.get(_key("a")) is None


def test_entries_end() -> None:
    """An entry is not returned after its time and the time it may be stale, nor after the longest time any entry is kept."""
    cache = MemoryCache(10_000, longest_s=0.0)
    cache.put(_key("a"), Stored(b"x", SOON))
    assert cache.get(_key("a")) is None
    cache = MemoryCache(10_000)
    cache.put(_key("a"), Stored(b"x", time.time() - 1))
    assert cache.get(_key("a")) is None
    cache.put(_key("a"), Stored(b"x", time.time() - 1, stale_s=60))
    assert cache.get(_key("a")) is not None
    assert cache.size_bytes > 0


def test_a_kind_can_be_dropped() -> None:
    """Dropping what begins with a prefix takes a tenant's entries of that kind and no others."""
    cache = MemoryCache(10_000)
    for key in (_key("ann:1"), _key("ann:2"), _key("bob:1"), _key("ann:1", "other"), Key(ACME, "list", "ann:1")):
        cache.put(key, Stored(b"x", SOON))
    cache.forget_prefix(ACME, "user", "ann:")
    assert cache.used_by(ACME)[0] == 2
    assert cache.used_by(TenantId("other"))[0] == 1


@given(st.lists(st.integers(0, 50), max_size=300))
def test_counts_are_never_too_low(added: list[int]) -> None:
    """A key's count is at least what it was counted, up to 15, and half of it after halving."""
    sketch = Sketch(16)
    for one in added:
        sketch.add(hash(one))
    for one in set(added):
        assert sketch.count(hash(one)) >= min(15, added.count(one))
    before = {one: sketch.count(hash(one)) for one in set(added)}
    sketch.halve()
    assert {one: sketch.count(hash(one)) for one in before} == {one: count // 2 for one, count in before.items()}


def test_what_has_expired_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries past their time leave as others come, though nobody asks for them again; those that may still be read stay."""
    clock = Clock(monkeypatch)
    now = clock.wall_s
    cache = MemoryCache(1_000_000, longest_s=60.0)
    for number in range(100):
        cache.put(_key(f"old{number}"), Stored(bytes(600), now + 5))
    cache.put(_key("kept"), Stored(b"x", now + 3600))
    clock.advance(10)
    cache.put(_key("new"), Stored(b"y", now + 3600))
    assert cache.used_by(ACME)[0] == 2
    assert cache.evictions == 0
    clock.advance(51)
    cache.put(_key("newer"), Stored(b"z", now + 3600))
    assert cache.get(_key("kept")) is None
    assert cache.get(_key("new")) is not None
    assert cache.used_by(ACME)[0] == 2


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_lets_nothing_stay_and_drops_nothing(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """Entries kept before the wall clock was an hour off, or while it was, live their 60 s by the real passing of time, and then leave."""
    clock = Clock(monkeypatch)
    cache = MemoryCache(1_000_000, longest_s=60.0)
    cache.put(_key("before"), Stored(b"x", clock.wall_s + 1800))
    clock.wall_s += jump_s
    assert cache.get(_key("before")) is not None
    cache.put(_key("meanwhile"), Stored(b"y", clock.wall_s + 1800))
    clock.wall_s -= jump_s
    clock.advance(59)
    assert cache.get(_key("before")) is not None
    assert cache.get(_key("meanwhile")) is not None
    clock.advance(3)
    cache.put(_key("after"), Stored(b"z", clock.wall_s + 1800))
    assert cache.used_by(ACME)[0] == 1
    assert cache.get(_key("after")) is not None
