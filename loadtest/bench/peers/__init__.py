"""Other servers with the same model and texts, and other recommenders with the same catalogue, measured beside Aisle in the same run."""
