"""What is asked of a recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.domain import Interaction, UserId

DEFAULT_RESULTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
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
