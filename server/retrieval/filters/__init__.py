r"""AIP-160 filter expressions over items: `price <= 5000 AND categories:"venue" AND attributes.city = "Porto"`.

Precedence as in AIP-160: NOT and `-` bind tightest, then OR, then AND and plain sequences (`a b` is `a AND b`).

    field = value    exact, case-sensitive; a `*` at either end of the text is a wildcard (`"Quinta*"`), `\*` is a star
    field != value   has a value, and not this one
    field < value    numbers, times, and text by code point; also <= > >=
    field:value      `categories` and list attributes: an element equals the value, ignoring case; text: the value occurs as whole words,
                     ignoring case; objects: has that key; numbers, booleans and times: as `=`
    field:*          present: not null, and not an empty text, list or object
    field:(a OR b)   the operator with each value in turn

**A missing value compares false with everything, so NOT of that comparison is true.** The same holds for a value of another type:
text never equals a number, except that an unquoted `4000` or `true` also equals the text "4000" or "true". A list attribute satisfies a
comparison if any element does, and `!=` if none equals. Paths go through lists of objects: `attributes.rooms.name:"Blue"`. Times are
RFC 3339; a plain date is its midnight in UTC. Bare words (global search) are refused: the catalogue is searched by vector, not by filter.
"""

from server.retrieval.filters.parser import MAX_DEPTH, MAX_LENGTH, Filter, compile_filter

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "Filter", "compile_filter"]
