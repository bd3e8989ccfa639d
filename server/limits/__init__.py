"""Bounds on what callers can take: rates by token bucket, concurrency by latency, guesses by address. No word of gRPC or HTTP."""
