"""What is asked of a recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import orjson

from server.domain import Interaction, UserId

DEFAULT_RESULTS = 20


@dataclass(frozen=True, kw_only=True)
class RecommendQuery:
    """What is asked."""

    user_id: UserId
    max_results: int = 0
    """0: `DEFAULT_RESULTS`."""
    context: Mapping[str, Any] = field(default_factory=dict)
    filter: str = ""
    include_seen: bool = False
    token: str = ""
    explain: bool = False
    method: str = "RecommendItems"
    use_history: bool = True
    extra_history: tuple[Interaction, ...] = ()
    """Interactions that count for this reply only, newest last."""

    @property
    def limit(self) -> int:
        """Items to return."""
        return self.max_results or DEFAULT_RESULTS

    @property
    def asked(self) -> list[Any]:
        """What a list depends on besides its user, as JSON values; what makes a list that is not kept apart."""
        return [self.limit, dict(self.context), self.filter, self.include_seen, self.use_history]

    @cached_property
    def page(self) -> str:
        """Tells pages apart, whoever asks: 32 hexadecimal digits of what is asked and whether reasons are."""
        return digest([self.asked, self.explain])


def digest(value: object) -> str:
    """Returns 32 hexadecimal digits of any JSON value; the order of names does not count."""
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
