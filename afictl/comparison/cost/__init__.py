"""Parameters, multiply-adds, time and memory of detectors and their interpolators."""
