"""Interpolators inside models that other libraries built."""

from afictl.integrations.substitute import substitute_interpolator

__all__ = ["substitute_interpolator"]
