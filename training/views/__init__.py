"""One module a view of the fused vector."""
