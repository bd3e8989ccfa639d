"""The real Triton, PostgreSQL and Redis of the `embedded` extra, run as children of Aisle in its data folder."""

from server.embedded.folders import Instance, Parts, running_instance
from server.embedded.parts import parts_for_command, running_parts

__all__ = ["Instance", "Parts", "parts_for_command", "running_instance", "running_parts"]
