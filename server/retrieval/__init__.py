"""Finds candidates: the fused vector, the index, the sparse item-item source, trending and fresh items."""
