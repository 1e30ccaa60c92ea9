"""Trained detectors and interpolators as files for deployment, checked against PyTorch's own results."""
