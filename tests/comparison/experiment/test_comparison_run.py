"""A cell's result and what is said of a cell that failed."""

import json

import pytest

from afictl import UserError
from afictl.comparison.experiment.comparison_run import describe_failure, read_result

WHOLE = {"interpolator": "afi", "seed": 0, "metrics": {}, "per_class": [], "seconds": 1.0}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "Expecting"),
        ("[]", "something is missing in it"),
        ("{}", "something is missing in it"),
        (json.dumps({key: value for key, value in WHOLE.items() if key != "seconds"}), "something is missing in it"),
    ],
)
def test_a_damaged_result_is_named(tmp_path, content, problem):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=rf"result\.json: cannot be read \({problem}.*remove it to measure this cell"):
        read_result(tmp_path)


def test_a_whole_result_is_read(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE))
    assert read_result(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("error", "line", "logged"),
    [
        (UserError("a: mistake"), "a: mistake", False),
        (OSError(28, "No space left on device", "a.json"), "a.json: No space left on device; free some", False),
        (MemoryError(), "the memory is too small; a smaller batch_size or max_size (--set) or --precision", False),
        (KeyError("x"), "unexpected KeyError: 'x'", True),
    ],
)
def test_one_line_for_each_failure(tmp_path, error, line, logged):
    assert describe_failure(error, tmp_path).startswith(line)
    assert (tmp_path / "log.txt").exists() == logged
