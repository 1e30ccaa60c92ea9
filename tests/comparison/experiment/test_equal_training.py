"""Within a seed everything but the interpolator is equal for all methods."""

from dataclasses import replace

import pytest
import torch

from afictl import build_interpolator, interpolator_kinds, load_preset
from afictl.comparison.experiment.execution import train_experiment
from afictl.training import splits as splits_module
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    resolve_interpolator,
)
from tests.helpers.tiny_runs import SMALL


def initial_tensors(preset, source, weights=None, seed=3):
    """Initial tensors of a detector outside its interpolator."""
    preset, interpolator = resolve_interpolator(preset, source, seed)
    detector = build_seeded_detector(preset, interpolator, 3, seed)
    load_initial_weights(detector, InitialWeights(source, weights))
    prefix = detector.interpolator_prefix
    return {name: value for name, value in detector.state_dict().items() if not name.startswith(prefix)}


@pytest.fixture(scope="module")
def recipes(guide_run):
    """Preset and weights of detectors, each with its initial tensors around nearest interpolation."""
    mask_preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    pairs = ((mask_preset, None), (mask_preset, guide_run))
    return [(recipe, weights, initial_tensors(recipe, "nearest", weights)) for recipe, weights in pairs]


@pytest.mark.parametrize("kind", [*interpolator_kinds(), "FILE"])
def test_all_other_parts_have_equal_initial_weights(recipes, methods, kind):
    """Whatever random numbers the interpolator draws, from scratch and from trained weights."""
    source = methods[1].source if kind == "FILE" else kind
    for recipe, weights, expected in recipes:
        tensors = initial_tensors(recipe, source, weights)
        assert list(tensors) == list(expected)
        assert [name for name in expected if not torch.equal(tensors[name], expected[name])] == []


def test_another_seed_has_other_initial_weights(preset):
    first, second = initial_tensors(preset, "nearest"), initial_tensors(preset, "nearest", seed=4)
    random_names = [name for name in first if name.startswith("head.") and name.endswith("weight")]
    assert random_names
    assert not [name for name in random_names if torch.equal(first[name], second[name])]


def test_interpolators_draw_random_numbers():
    """Or the test of equal initial weights could not fail."""
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    build_interpolator("carafe", 16)
    assert not torch.equal(state, torch.random.get_rng_state())


def test_batches_are_equal_within_a_seed(fabric, settings, monkeypatch):
    batches = []
    train_batches = splits_module.train_batches

    def record_batches(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            batches.append((batch.image_ids, [float(image.sum()) for image in batch.images]))
            yield batch

    monkeypatch.setattr(splits_module, "train_batches", record_batches)
    train_experiment(fabric, replace(settings, seeds=(0, 1)))
    assert len(batches) == 8
    assert batches[0:2] == batches[2:4] != batches[4:6] == batches[6:8]
