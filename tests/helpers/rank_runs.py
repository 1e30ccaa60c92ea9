"""Comparison of runs of different numbers of processes."""

from pathlib import Path

import pytest
import torch

from afictl.run_records import read_metrics

IMAGENET_PIXELS = ("input.mean=[0.485,0.456,0.406]", "input.std=[0.229,0.224,0.225]")
"""Input with which rounding errors change no order of proposals, from which a training would go another way."""


def losses_of(run: Path) -> list[dict[str, float]]:
    """The losses of each step of a run, all of whose steps are logged."""
    losses = [{name: value for name, value in record.items() if "loss" in name} for record in read_metrics(run)]
    return [values for values in losses if values]


def assert_equal_runs(run: Path, expected: Path, steps: int, module: str, atol: float) -> None:
    """The losses of all ``steps`` are equal up to rounding, and the weights of ``module`` up to ``atol``."""
    losses, expected_losses = losses_of(run), losses_of(expected)
    assert len(losses) == len(expected_losses) == steps
    for step, (values, expected_values) in enumerate(zip(losses, expected_losses, strict=True), start=1):
        assert values == pytest.approx(expected_values, rel=1e-5, abs=1e-6), f"step {step}"
    weights, expected_weights = (torch.load(r / "state.pt", weights_only=True)[module] for r in (run, expected))
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=atol, msg=name)
