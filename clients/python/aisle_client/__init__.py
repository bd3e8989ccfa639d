"""The async client for Aisle."""
