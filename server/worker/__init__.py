"""The other way in: what drains the streams into Postgres."""

from server.worker.decisions import decision_worker
from server.worker.drain import StreamWorker
from server.worker.events import event_worker

__all__ = ["StreamWorker", "decision_worker", "event_worker"]
