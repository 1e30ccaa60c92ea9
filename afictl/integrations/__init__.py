"""Interpolators inside models that other libraries built."""

from afictl.integrations.substitute import substitute_interpolator
from afictl.integrations.substitution import Substitution, UnreachedStep, UpsamplingStep

__all__ = ["Substitution", "UnreachedStep", "UpsamplingStep", "substitute_interpolator"]
