"""Aisle: a personalization inference server."""

__version__ = "0.1.0"
