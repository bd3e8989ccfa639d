"""Other systems' APIs, so that their clients work here unchanged. Thin: each turns its wire into calls of Aisle's own methods."""
