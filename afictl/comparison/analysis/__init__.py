"""Statistics, verdicts, tables and files of a comparison."""
