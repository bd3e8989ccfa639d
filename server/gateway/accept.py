"""Chooses a media type or a coding by what the caller accepts.

Source: RFC 9110, sections 12.4.2, 12.5.1 and 12.5.3.
"""

from __future__ import annotations

from collections.abc import Sequence


def qualities(header: str) -> dict[str, float]:
    """Returns the header's entries in lower case with their quality in [0, 1]. A malformed quality counts as 0."""
    found: dict[str, float] = {}
    for entry in header.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name:
            found[name] = next((_quality(one) for one in parameters if one.startswith("q=")), 1.0)
    return found


def _quality(parameter: str) -> float:
    text = parameter.removeprefix("q=").strip()
    try:
        return min(1.0, max(0.0, float(text))) if text.replace(".", "", 1).isdecimal() else 0.0
    except ValueError:
        return 0.0


def choose(header: str, offered: Sequence[str]) -> str | None:
    """Returns the offered media type that the caller likes best; of those liked alike, the one offered first.

    Args:
        header: `Accept`; empty accepts all.
        offered: Media types without parameters, the default first.
    """
    liked = qualities(header) or {"*/*": 1.0}
    scored = [(_of(liked, kind, f"{kind.partition('/')[0]}/*", "*/*"), -place) for place, kind in enumerate(offered)]
    quality, place = max(scored)
    return offered[-place] if quality > 0 else None


def _of(liked: dict[str, float], *names: str) -> float:
    """Returns the quality of the most specific name that is listed."""
    return next((liked[name] for name in names if name in liked), 0.0)


def takes_coding(header: str, coding: str) -> bool:
    """Returns whether a reply may come in the coding, by `Accept-Encoding`; without the header it may not."""
    return _of(qualities(header), coding, "*") > 0
