"""Who calls, by credentials that others issued: signed tokens of an identity provider and client certificates."""
