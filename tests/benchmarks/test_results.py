"""Errors and interrupts of the benchmark scripts."""

import pytest

from afictl.errors import UserError
from benchmarks.results import run_benchmark


@pytest.mark.parametrize(
    ("error", "code", "line"), [(KeyboardInterrupt(), 130, "stopped\n"), (UserError("no data"), "error: no data", "")]
)
def test_an_interrupt_and_a_mistake_end_with_one_line(error, code, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run_benchmark(main)
    assert end.value.code == code  # a text is printed, with exit status 1
    assert capsys.readouterr().err == line
