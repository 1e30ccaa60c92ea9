"""Training of the runs of a comparison, one after another or in parallel."""
