"""Benchmarks of speed and memory against other libraries; run from a checkout, not part of the wheel."""
