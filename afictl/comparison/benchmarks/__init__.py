"""Measurements of speed and memory that help to choose an interpolator and hardware."""
