import json

import pytest

from afictl import UserError
from afictl.comparison.experiment.comparison_run import describe_failure, read_finished_run
from afictl.comparison.records import read_result

RESULT = {"interpolator": "afi", "seed": 3, "metrics": {"box/AP": 1.5}, "per_class": [], "seconds": 1.0}


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({**RESULT, "seconds": 0}).replace("seconds", "time")])
def test_a_damaged_result_is_rejected_by_file(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError) as error:
        read_result(tmp_path)
    assert str(tmp_path / "result.json") in str(error.value)
    assert str(error.value).endswith("remove it to train this run again")
    (tmp_path / "state.pt").touch()
    with pytest.raises(UserError, match=r"remove it to evaluate this run again$"):
        read_result(tmp_path)


def test_a_result_is_read_as_a_run(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    run = read_finished_run(tmp_path)
    assert (run.seed, run.folder, run.metrics, run.training_seconds) == (3, tmp_path, {"box/AP": 1.5}, 1.0)


@pytest.mark.parametrize(
    ("error", "fact", "is_logged"),
    [
        (UserError("a: mistake"), "a: mistake", False),
        (OSError(28, "No space left on device", "a.json"), "a.json: No space left on device", False),
        (MemoryError(), "batch_size", False),
        (KeyError("x"), "KeyError: 'x'", True),
    ],
)
def test_failures_are_described_in_one_line(tmp_path, error, fact, is_logged):
    line = describe_failure(error, tmp_path)
    assert fact in line
    assert "\n" not in line
    assert (tmp_path / "log.txt").exists() == is_logged
