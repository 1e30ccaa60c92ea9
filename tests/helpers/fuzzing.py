"""Property-based tests of the program: generated inputs, and what every outcome of a command has to be."""

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

COUNTS = [pytest.param(16, id="fast"), pytest.param(400, id="slow", marks=pytest.mark.slow)]
"""Cases of one property; five properties together have 80 and 2,000."""
_SECONDS = 60.0
"""Longest processor time of one case."""
_MEMORY = 2**30
"""Bytes by which the process may grow in all cases of a property."""

Run = Callable[..., tuple[int, str, str]]

SCALARS = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 7, 255, 2**31, 2**63, -(2**63) - 1, 10**400),
        *(0.5, -0.5, 1e-9, 1e27, 1e308, math.nan, math.inf, -math.inf),
        *("", "nan", "1", "yes", "1e-3", "a", "é", "\ud800", "../../etc/passwd", "a\\b", "/dev/zero", "x" * 3000),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a", ""]), inner, max_size=2),
    max_leaves=4,
)
"""Values of JSON and YAML that a key may have by mistake."""


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command that was accepted or refused as it has to be."""

    code: int
    output: str


def check_property(strategy: st.SearchStrategy[Any], count: int, check: Callable[[Any], None]) -> None:
    """Run ``check`` on ``count`` generated cases, the same ones every time."""

    @seed(20_260)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(strategy)
    def run(case: Any) -> None:
        start = time.process_time()
        check(case)
        assert time.process_time() - start < _SECONDS

    before = _peak_memory()
    run()
    assert _peak_memory() - before < _MEMORY


def run_checked(
    afictl: Run, folder: Path, *arguments: object, codes: tuple[int, ...] = (0,), names: tuple[str, ...] = ()
) -> Outcome:
    """Run a command and check its outcome: accepted, or refused in one line with exit code 2.

    Args:
        afictl: the fixture of this name.
        folder: of all inputs; only ``folder / "output"`` may change.
        arguments: of the command.
        codes: exit codes of an accepted input.
        names: parts of the input, of which a refusal names at least one.
    """
    before = _files(folder)
    code, output, error = afictl(*arguments)
    assert _files(folder) == before
    assert "Traceback" not in output + error
    assert "error: unexpected" not in error, error
    if code not in codes:
        lines = [line for line in error.splitlines() if line.startswith("error:")]
        assert code == 2, (code, error)
        assert len(lines) == 1, error
        assert error.rstrip().endswith(lines[0].rstrip()), error
        assert not names or any(name in lines[0] for name in names), (lines[0], names)
    return Outcome(code, output)


@st.composite
def mutated(draw: st.DrawFn, content: Any, values: st.SearchStrategy[Any] = VALUES, most: int = 3) -> Any:
    """``content`` with up to ``most`` of its values replaced, removed, repeated or renamed at any depth."""
    content = _copy(content)
    for _ in range(draw(st.integers(0, most))):
        paths = [path for path in _paths(content) if path]
        if not paths:
            break
        *parents, key = draw(st.sampled_from(paths))
        parent = content
        for name in parents:
            parent = parent[name]
        action = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "swap"]))
        if action == "replace":
            parent[key] = draw(values)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, _copy(parent[key if action == "repeat" else -1]))
        else:
            parent[draw(st.sampled_from(["id", "extra", key.upper()]))] = parent.pop(key)
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content``, sometimes truncated or with other bytes at one place."""
    match draw(st.sampled_from(["intact"] * 6 + ["truncated", "changed", "extended"])):
        case "truncated":
            return content[: draw(st.integers(0, max(0, len(content) - 1)))]
        case "changed":
            place = draw(st.integers(0, max(0, len(content) - 1)))
            return content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place + 1 :]
        case "extended":
            return content + draw(st.binary(min_size=1, max_size=8))
        case _:
            return content


def _paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    paths = [path]
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in children:
        paths += _paths(value, (*path, key))
    return paths


def _copy(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _copy(value) for key, value in content.items()}
    return [_copy(value) for value in content] if isinstance(content, list) else content


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files but those in the output folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and "output" not in path.relative_to(folder).parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
