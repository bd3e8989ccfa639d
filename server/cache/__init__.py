"""Computed bytes, kept near: in process, then in Redis. Without Redis it is slower, never wrong and never an error."""

from server.cache.cache import CONTENT_TTL_S, RECOMMENDATIONS_TTL_S, USER_VECTOR_TTL_S, Cache, Cached, Level, Tally
from server.cache.memory import MemoryCache

__all__ = ["CONTENT_TTL_S", "RECOMMENDATIONS_TTL_S", "USER_VECTOR_TTL_S", "Cache", "Cached", "Level", "MemoryCache", "Tally"]
