"""Load on a running server (`python -m loadtest`, `make load`) and ratio benchmarks (`python -m loadtest.bench`)."""
