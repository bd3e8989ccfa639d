"""AWS Personalize's filter expressions: parsed, and turned into an AIP-160 filter and sets of items for one request."""

from server.compat.aws.filters.parser import parse_filter
from server.compat.aws.filters.resolve import Circumstances, Selection, check_expressible, resolve
from server.compat.aws.filters.syntax import FilterExpression

__all__ = ["Circumstances", "FilterExpression", "Selection", "check_expressible", "parse_filter", "resolve"]
