from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain import ItemId, UserId
from server.service.applied import decode_applied, encode_applied
from server.store.sequences import Action, AppliedEvents, AppliedSequence

_ACTIONS = st.lists(st.builds(Action, st.sampled_from(["click", "save"]), st.floats(0, 4e9))).map(tuple)
_ITEMS = st.lists(st.text(max_size=5).map(ItemId)).map(tuple)
_SEQUENCES = st.lists(st.builds(AppliedSequence, _ITEMS, st.lists(st.integers(0, 9)).map(tuple), _ACTIONS), max_size=5)


def _applied(transaction: int, sequences: list[AppliedSequence]) -> AppliedEvents:
    return AppliedEvents((), transaction, {UserId(f"u{number}"): one for number, one in enumerate(sequences)}, {})


@given(_SEQUENCES, st.integers(1, 2**63))
def test_sequences_arrive_as_they_were_sent(sequences: list[AppliedSequence], transaction: int) -> None:
    """Items, places, types, times and the transaction survive the way."""
    messages = [message for part in encode_applied(_applied(transaction, sequences)) for message in part]
    assert list(decode_applied(messages)) == [(transaction, one) for one in sequences]


def test_much_goes_in_parts() -> None:
    """No publication outgrows what a listener hears in some milliseconds, unless one user alone does; nothing is lost."""
    sequences = [AppliedSequence(tuple(ItemId(f"item-{number}-{place}") for place in range(20)), (), ()) for number in range(500)]
    parts = list(encode_applied(_applied(7, sequences)))
    assert max(sum(map(len, part)) for part in parts) <= 1 << 14
    assert [one for part in parts for _, one in decode_applied(part)] == sequences
