"""Redis Streams: the durable way in for events and decisions, and the fan-out of invalidations."""

from server.stream.connection import connect
from server.stream.event_log import EventLog

__all__ = ["EventLog", "connect"]
