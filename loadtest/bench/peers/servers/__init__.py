"""One file a peer: what its own documentation shows for a model like this. All but Triton run in environments without Aisle."""
