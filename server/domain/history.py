"""How events change a profile. Pure: the worker, the bulk import and the read-your-writes overlay share these rules.

For any profile p and events E:

- `apply_events(overlay(p, E), E) == apply_events(p, E)`: showing events early does not make them count twice;
- `overlay(apply_events(p, E), E) == apply_events(p, E)`: showing events that were applied meanwhile changes nothing;
- `overlay(overlay(p, E), E) == overlay(p, E)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from server.domain.events import Event
from server.domain.ids import UserId
from server.domain.profiles import HISTORY_LIMIT, Interaction, Profile

_by_time = attrgetter("occur_time")


def subject_of(event: Event) -> UserId:
    """Returns the user whose profile the event changes.

    An event without a user belongs to its `anonymous_id`, which is a user id like any other until the two are identified as one person.
    """
    return event.user_id or UserId(event.anonymous_id)


def interaction_of(event: Event) -> Interaction | None:
    """Returns what a profile remembers of an event, or None for an event that concerns no item."""
    if event.item_id is None:
        return None
    return Interaction(event.item_id, event.event_type, event.occur_time, event.value, event.event_id, event.session_id)


def merge_history(history: Sequence[Interaction], added: Iterable[Interaction]) -> tuple[Interaction, ...]:
    """Returns the newest `HISTORY_LIMIT` interactions of both, oldest first, each event once.

    Equal times keep their order: what is known before what is added. An interaction older than all of a full history is left out, so an
    event that already fell off does not come back.
    """
    known = {interaction.event_id for interaction in history}
    fresh: list[Interaction] = []
    for interaction in added:
        if interaction.event_id not in known:
            known.add(interaction.event_id)
            fresh.append(interaction)
    if not fresh:
        return tuple(history)
    return tuple(sorted([*history, *fresh], key=_by_time)[-HISTORY_LIMIT:])


def overlay(profile: Profile, events: Iterable[Event]) -> Profile:
    """Returns the profile as it will read once these events are applied, whether or not they are yet.

    Only `history` changes. The counters cannot tell an applied event from a pending one, so they wait for the worker. Events of other
    users, which share stream entries, are passed over.
    """
    mine = (interaction_of(event) for event in events if subject_of(event) == profile.user_id)
    return replace(profile, history=merge_history(profile.history, (seen for seen in mine if seen is not None)))


def apply_events(profile: Profile, events: Sequence[Event]) -> Profile:
    """Returns the profile after events that were never counted for it: history and counters.

    `version` and times are the store's business.
    """
    counts = Counter(profile.engagement_history)
    counts.update(event.event_type for event in events)
    return replace(overlay(profile, events), engagement_history=dict(counts))
