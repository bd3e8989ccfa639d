"""Aisle: a personalization inference server."""
