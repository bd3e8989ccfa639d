"""The replays of sessions: real histories in order, and policies that are what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.cache_policies import Lru, S3Fifo, WTinyLfu, belady_hits
from loadtest.bench.caches import Server, hit_rates, sessions

_READS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.just(1000)), max_size=60)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Twenty users with a dozen interactions each, as a file of events."""
    rows = [f"u{user},i{(user * step) % 31},view,{1000 * user + step}" for user in range(20) for step in range(12)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user_id,item_id,event_type,occurred_at", *reversed(rows)]) + "\n")
    return path


def test_a_replay_follows_each_user_s_own_history(history: Path) -> None:
    """A user's pages come in the order of their interactions, then again from the start; the same seed gives the same replay."""
    reads = sessions(history, 400)
    assert reads == sessions(history, 400)
    assert reads != sessions(history, 400, seed=1)
    pages = [(profile.removeprefix("profile:u"), item) for (profile, _), (item, _) in zip(reads[::2], reads[1::2], strict=True)]
    for user in {user for user, _ in pages}:
        expected = [f"similar:i{(int(user) * step) % 31}" for step in range(12)] * 40
        seen = [item for one, item in pages if one == user]
        assert seen == expected[: len(seen)]


@given(_READS, st.integers(1, 6))
def test_no_policy_beats_the_future_known(reads: list[tuple[str, int]], fitting: int) -> None:
    """With entries of one size, no policy has more hits than Belady's, and with room for all every one has all there are."""
    best = belady_hits(reads, 1000 * fitting)
    for policy in (Lru(1000 * fitting), S3Fifo(1000 * fitting), WTinyLfu(1000 * fitting, fitting)):
        assert sum(policy.read(key, size) for key, size in reads) <= best
    assert belady_hits(reads, 8000) == len(reads) - len(set(reads))


def test_every_policy_is_measured(history: Path) -> None:
    """Rates are shares, and the server's own cache is among them and holds what fits."""
    found = hit_rates(sessions(history, 400), 0.5)
    assert set(found) == {"LRU", "S3-FIFO", "W-TinyLFU", "Aisle", "Belady"}
    assert all(0 < rate <= 1 for rate in found.values())
    server = Server(10_000)
    assert [server.read("a", 1000), server.read("a", 1000)] == [False, True]
