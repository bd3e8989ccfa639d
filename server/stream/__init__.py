"""Redis Streams: the durable way in for events and decisions, and the fan-out of invalidations."""

from server.stream.connection import LOST, connect
from server.stream.consumer import Entry, StreamConsumer
from server.stream.decision_log import DECISIONS, DecisionLog
from server.stream.event_log import EVENTS, EventLog
from server.stream.invalidations import Invalidations

__all__ = ["DECISIONS", "EVENTS", "LOST", "DecisionLog", "Entry", "EventLog", "Invalidations", "StreamConsumer", "connect"]
