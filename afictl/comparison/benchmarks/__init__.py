"""Measurements of speed and memory against the libraries that users would take otherwise, each in the same run."""
