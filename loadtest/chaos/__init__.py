"""Faults under load: what fails, on which rung answers come, how soon all is well again, and whether an acknowledged event was lost."""
