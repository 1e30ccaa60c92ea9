"""Evidence on interpolators: the settings and runs behind the tables of docs/results.md."""
