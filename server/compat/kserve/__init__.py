"""KServe v2, the Open Inference Protocol, as Triton's clients speak it."""
