"""YAML has one meaning: numbers are decimal, a key stands once, and what is read is bounded."""

import math

import pytest
import yaml

from afictl import UserError
from afictl.yaml_files import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr: 1e-3", {"lr": 0.001}),  # text in YAML 1.1
        ("[1E5, +5, -.5e3, 5., 00.5]", [1e5, 5, -500.0, 5.0, 0.5]),
        ("[yes, off, true, ~, null, '', no-1]", [True, False, True, None, None, "", "no-1"]),
        ("yes: 1\n2: x", {"yes": 1, "2": "x"}),  # keys are text
        ("2024-01-01", "2024-01-01"),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("base: &b {a: 1, b: 2}\ntop: {<<: *b, b: 3}", {"base": {"a": 1, "b": 2}, "top": {"a": 1, "b": 3}}),
        ("['010', \"1_000\"]", ["010", "1_000"]),
        ("", None),
    ],
)
def test_values(text, value):
    assert parse_yaml(text, "f") == value


def test_infinity_and_nan_are_numbers_that_the_schema_refuses():
    infinite, nan = parse_yaml("[-.inf, .NaN]", "f")
    assert infinite == -math.inf
    assert math.isnan(nan)


@pytest.mark.parametrize(
    "number", ["010", "-007", "089", "0x1F", "0o17", "0b1", "1_000", "1_000.5", "1:30", "1:30:00.5"]
)
def test_a_number_of_two_meanings_is_refused(number):
    with pytest.raises(UserError, match=rf"^f: line 2: train\.lr: {number} .*decimal"):
        parse_yaml(f"train:\n  lr: {number}\n", "f")
    assert parse_yaml(f"lr: '{number}'", "f") == {"lr": number}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("train: {lr: 1}\nneck: {}\ntrain: {steps: 2}\n", "f: line 3: train: .*twice.* line 1"),
        ("train:\n  lr: 1\n  steps: 1\n  lr: 2\n", r"f: line 4: train\.lr: .*twice.* line 2"),
        ("{a: 1, a: 2}", "^f: a: .*twice"),
        ("a: !!python/name:os.system x", "^f: a: .*python/name:os.system.*YAML"),
        ("a: !!binary aGk=", "^f: a: .*binary"),
        ("a: !!set {b: }", "^f: a: .*set"),
        ("a: !!int x", "^f: a: x "),
        ("? [1]\n: 2", "^f: line 1: .*key"),
        ("[1, 2", "^f: not readable as YAML"),
        ("a: 1\nb: [\nc: 2]: 3\n", "^f: line 3: not readable as YAML"),
        ("a: *b", "^f: not readable as YAML.*'b'"),
        ("--- 1\n--- 2", "^f: line 2: not readable as YAML"),
        ("a: \0", "^f: not readable as YAML"),
        ('a: "\\ud800"', "^f: a: .*Unicode"),
        (f"a: {'9' * 5000}", "^f: a: .*5000 characters"),
        ("[" * 2000, "^f: .*nested too deep"),
        ("- " * 2000, "^f: .*nested too deep"),
        ("a: &x [*x]", r"^f: a\.0.*aliases"),
    ],
)
def test_what_cannot_be_meant_names_the_place(text, facts):
    with pytest.raises(UserError, match=facts) as error:
        parse_yaml(text, "f")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_aliases_that_multiply_are_refused_before_they_grow():
    lines = ["a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(UserError, match=r"f: line \d: .*aliases"):
        parse_yaml("\n".join(lines), "f")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "f.yaml").write_bytes("note: Größe\n".encode(encoding))
    assert read_yaml(tmp_path / "f.yaml") == {"note": "Größe"}


@pytest.mark.parametrize(
    ("content", "facts"), [(b"\xff\xfea\x00\x00\xd8", "UTF-8"), (b"a: \xe9", "UTF-8"), (b"#" * 2**21, "larger")]
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, facts):
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"f\.yaml: .*{facts}"):
        read_yaml(tmp_path / "f.yaml")
    with pytest.raises(UserError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


def test_what_is_written_is_read_back_equal():
    texts = ["010", "1e-3", "yes", "1:30", "0o7", "<<", "", "null", "2024-01-01", "é", "a: b", "#"]
    values = {"texts": texts, "numbers": [1e-5, 1e22, -3, 1.0, True, None], "again": texts, "1": {}}
    assert parse_yaml(dump_yaml(values), "f") == values
    assert parse_yaml(dump_yaml(values, flow=True), "f") == values
    assert "\n" not in dump_yaml(values, flow=True)
    numbers = {"numbers": values["numbers"]}
    assert parse_yaml(yaml.safe_dump(numbers), "f") == numbers  # as earlier versions wrote the settings of a run
