"""Ratio benchmarks: what Aisle costs beside the limits of the same machine in the same minutes."""
