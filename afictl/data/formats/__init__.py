"""Readers of annotation formats: file to ``Dataset``."""
