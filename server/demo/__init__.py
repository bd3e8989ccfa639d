"""The demo tenant: a seeded, invented world of wedding vendors and of couples who plan with them.

Deterministic: the same seed, size and `now` give the same values. A larger size keeps the couples of a smaller one and adds more.
"""

from server.demo.generate import Demo, couples_with_journeys, generate

__all__ = ["Demo", "couples_with_journeys", "generate"]
