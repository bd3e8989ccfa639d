"""Use cases, the same nouns as `api/`. No protobuf, no HTTP."""
