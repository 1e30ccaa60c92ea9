"""A run that was killed and resumed has the records of an uninterrupted one, in its metrics and TensorBoard events."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afictl import load_preset
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune
from afictl.training.run_writer import RunWriter
from tests.helpers.tiny_runs import SMALL, assert_same_states, with_steps

TIMES = {"seconds_per_step", "data_seconds", "memory_gib"}


class Killed(BaseException):
    """The end of a process, after which nothing is written."""


@pytest.fixture(scope="module")
def train(fabric, shapes_dir):
    """Four steps to a folder, saved and evaluated after the second and the fourth."""
    preset = with_steps(load_preset("faster-rcnn-r18-fpn-tiny", SMALL), checkpoint_every=2, eval_every=2)

    def train(folder, resume=False):
        finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"), resume=resume)

    return train


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(folder)
    return folder


def records(folder):
    """The lines of ``metrics.jsonl`` without their times."""
    return [{name: value for name, value in r.items() if name not in TIMES} for r in read_metrics(folder)]


def events(folder):
    """(step, value) of each scalar that TensorBoard shows, without the times."""
    reader = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"] if tag not in TIMES
    }


def test_the_events_are_the_records(uninterrupted):
    shown = events(uninterrupted)
    for record in records(uninterrupted):
        for name, value in record.items():
            if name != "step" and value is not None:
                assert (record["step"], pytest.approx(value, rel=1e-6)) in shown[name]


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("log_metrics", 2),  # the losses of step 2, before its state is saved
        ("save_state", 1),  # step 2 without its evaluation
        ("log_metrics", 3),  # the evaluation of step 2, with which no state is saved
        ("save_state", 2),  # step 2 with its evaluation
        ("log_metrics", 5),  # the losses of step 4
    ],
)
def test_a_run_killed_after_any_write_has_every_record_once(train, uninterrupted, tmp_path, method, call):
    folder, original, calls = tmp_path / "run", getattr(RunWriter, method), []

    def write_and_die(run, *args):
        original(run, *args)
        calls.append(args)
        if len(calls) == call:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, method, write_and_die)
        patch.setattr(RunWriter, "close", lambda run: None)  # buffered events are lost
        with pytest.raises(Killed):
            train(folder)
    (folder / ".tmpAb3xYz").write_bytes(b"weights")  # of safetensors, which earlier versions left
    train(folder, resume=True)
    assert records(folder) == records(uninterrupted)
    assert events(folder) == events(uninterrupted)
    assert_same_states(folder, uninterrupted, ("detector", "detector_optimizer", "best", "metrics", "measured", "step"))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
