"""Random streams of a training that vary one at a time."""

from dataclasses import fields, replace
from itertools import islice

import pytest
import yaml

from afictl.training import InitialWeights, finetune, stage3
from afictl.training.loop import TrainingOutcome
from afictl.training.seeds import Seeds

CHANGES = {
    "weights": {"weights"},
    "order": {"images", "pixels"},  # other images
    "augmentation": {"pixels"},
    "sampling": {"steps"},
}


@pytest.fixture
def facts_of(fabric, preset, shapes_dir, tmp_path, monkeypatch):
    """A function that begins a run and gives what each stream determines; no step is trained."""
    record = {}

    def fit(fabric, run, recipe, stage, seed):
        batches = list(islice(stage.batches(0), 3))
        weights = stage.modules["detector"].module.state_dict()
        record["weights"] = {name: float(value.double().sum()) for name, value in weights.items()}
        record["images"] = [batch.image_ids for batch in batches]
        record["pixels"] = [float(image[..., :24].sum()) for batch in batches for image in batch.images]
        record["steps"] = seed
        return TrainingOutcome({}, 0.0)

    def facts_of(name, seed):
        finetune(fabric, preset, shapes_dir, tmp_path / name, InitialWeights("nearest"), seed=seed)
        return dict(record), yaml.safe_load((tmp_path / name / "config.yaml").read_text())

    monkeypatch.setattr(stage3, "fit", fit)
    return facts_of


def test_every_stream_has_a_separate_seed(facts_of):
    expected, config = facts_of("plain", 0)
    assert (config["seed"], "seeds" in config) == (0, False)
    assert list(CHANGES) == [field.name for field in fields(Seeds)]
    for stream, changes in CHANGES.items():
        facts, config = facts_of(stream, replace(Seeds.of(0), **{stream: 1}))
        assert {name for name, fact in facts.items() if fact != expected[name]} == changes
        assert config["seeds"] == {name: int(name == stream) for name in CHANGES}
