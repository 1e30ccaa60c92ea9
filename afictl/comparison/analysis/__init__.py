"""Statistics, verdicts and tables of a comparison, and its files."""
