"""Everything that one request sees, read once: who asks, and when a list has to be computed, the user's vector.

Shapes: H interactions of a history.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.domain import Interaction, Profile, Rung
from server.domain.ranking import VECTOR_DIMENSIONS
from server.errors import AisleError, InvalidArgumentError
from server.inference import SequenceEncoder
from server.retrieval.affinity import Wishes, wishes
from server.retrieval.context import request_features
from server.retrieval.vectors import SEMANTIC, UserVector
from server.retrieval.view import IndexView
from server.service.catalogue import Catalogue
from server.service.deadlines import left_s
from server.service.lists import Ladder
from server.service.query import RecommendQuery
from server.service.sequential import sequential_view
from server.service.users import READ_YOUR_WRITES_S, KnownUser, Users

_VIEW_SHARE = 0.25
_USER_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and of what: all that a list from a cache takes."""

    catalogue: Catalogue
    view: IndexView
    known: KnownUser
    history: tuple[Interaction, ...]
    """The interactions that count for this request, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Everything that one request sees, at one moment: no step looks at anything newer than another did."""

    catalogue: Catalogue
    view: IndexView
    known: KnownUser
    history: tuple[Interaction, ...]
    features: Mapping[str, float]
    stated: Wishes
    user: UserVector


class Moments:
    """Reads profiles and makes user vectors."""

    def __init__(self, users: Users, sequences: SequenceEncoder) -> None:
        self._users = users
        self._sequences = sequences

    async def asker(self, catalogue: Catalogue, view: IndexView, query: RecommendQuery, ladder: Ladder, *, deadline: float) -> Asker:
        """Returns who asks. Where the profile cannot be read in time, the ladder comes down and an older one serves, or an empty one.

        Raises:
            InvalidFieldError: The token is none of ours.
        """
        share_s = min(self._users.patience_s, left_s(deadline) * _USER_SHARE)
        if query.token:
            share_s += READ_YOUR_WRITES_S  # what the token names has its own time; past it the profile alone gets its share
        try:
            known = await self._users.known(catalogue.tenant_id, query.user_id, token=query.token, deadline=time.monotonic() + share_s)
        except InvalidArgumentError:
            raise
        except AisleError as error:
            stale = self._users.last_known(catalogue.tenant_id, query.user_id)
            if stale is None and catalogue.knows_popular:
                ladder.drop(Rung.SEGMENT_POPULAR, f"no profile: {error.message}")
            elif stale is None:
                ladder.drop(Rung.STATIC, f"no profile, and nobody chose anything yet: {error.message}")
            else:
                ladder.drop(Rung.STALE_VECTOR, f"an older profile: {error.message}")
            known = KnownUser(stale or Profile(user_id=query.user_id), consistent=not query.token)
        if not known.consistent:
            ladder.drop(Rung.STALE_VECTOR, "the token's events could not be read in time")
        history = known.profile.history if query.use_history else ()
        return Asker(catalogue, view, known, history + query.extra_history if query.use_history else history)

    async def moment(self, asker: Asker, context: Mapping[str, Any], ladder: Ladder, *, deadline: float) -> Moment:
        """Returns the moment with the user's vector in it."""
        catalogue, view, history = asker.catalogue, asker.view, asker.history
        features = request_features(context, asker.known.profile)
        rows = view.rows_of([interaction.item_id for interaction in history])
        here = np.flatnonzero(rows >= 0)
        # The whole vectors only for a transformer, which reads another part of them.
        part = slice(0, VECTOR_DIMENSIONS) if catalogue.sequence_encoder else SEMANTIC
        found = view.vectors(rows[here], part)
        share = time.monotonic() + left_s(deadline) * _VIEW_SHARE
        met = [history[place] for place in here.tolist()]
        sequential = await sequential_view(self._sequences, catalogue, met, found, ladder, deadline=share)
        semantic = np.zeros((len(history), SEMANTIC.stop), np.float32)  # (H, 384)
        semantic[here] = found[:, SEMANTIC]
        user = catalogue.space.user_vector(history, semantic, features, sequential=sequential)
        return Moment(
            catalogue=catalogue,
            view=view,
            known=asker.known,
            history=history,
            features=features,
            stated=wishes(context, asker.known.profile),
            user=user,
        )
