import json
import os

import pytest

from afictl import UserError
from afictl.comparison.records import read_comparison, read_experiment, read_result
from afictl.run_records import (
    last_step,
    read_config,
    read_evaluation,
    read_feature_distance,
    read_metrics,
    read_versions,
    recorded_data,
)


def test_recorded_data_of_a_folder_and_a_file_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("data: /sets/cells\nseed: 0\n")
    assert str(recorded_data(tmp_path)) == str(recorded_data(tmp_path / "best.safetensors")) == "/sets/cells"


@pytest.mark.parametrize("content", [None, "seed: 0\n", "- 1\n", "data: [\n"])
def test_without_recorded_data_the_error_names_the_flag(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="--data"):
        recorded_data(tmp_path)


def test_a_truncated_line_of_metrics_is_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lr": 0.1}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "lr": 0.1}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_metrics_of_another_encoding_are_read(tmp_path, encoding):
    (tmp_path / "metrics.jsonl").write_bytes('{"step": 1, "lr": 0.1}\n{"step": 2}\n{"st'.encode(encoding))
    assert read_metrics(tmp_path) == [{"step": 1, "lr": 0.1}, {"step": 2}]


def test_a_folder_without_metrics_is_an_error(tmp_path):
    run = tmp_path / "runs" / "nearest"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=r"metrics.jsonl.*nearest"):
        read_metrics(tmp_path / "runs")
    (run / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"nearest/metrics\.jsonl"):
        read_metrics(run)


CONTENTS = {
    "config.yaml": {
        "command": "finetune",
        "preset": {"name": "x"},
        "data": "/data",
        "seed": 0,
        "hardware": {"precision": "32-true", "processes": 1},
        "classes": ["disc"],
        "contents": {"train": "content:0"},
    },
    "compare.json": {
        "preset": {},
        "data": "/data",
        "weights": "",
        "backbone_weights": "",
        "precision": "32-true",
        "classes": ["disc"],
        "contents": {"/data": "0"},
    },
    "result.json": {
        "interpolator": "afi",
        "seed": 0,
        "metrics": {"box/AP": 1.5, "box/APl": None},
        "per_class": [{"name": "disc", "objects": 3, "box/AP": 1.5}],
        "seconds": 2.0,
    },
    "comparison.json": {
        "methods": [{"name": "afi", "price": None}],
        "price_basis": {"detectors": {"afi": "0"}, "threads": 1},
    },
    "metrics.json": {"source": "run"},
    "versions.json": {"command": ["afictl"], "torch": "2.1"},
    "feature_distance.json": {"afi": {"p2": {"l1": 0.5}}},
}
READERS = {
    "config.yaml": read_config,
    "compare.json": lambda file: read_experiment(file.parent),
    "result.json": lambda file: read_result(file.parent),
    "comparison.json": read_comparison,
    "metrics.json": read_evaluation,
    "versions.json": read_versions,
    "feature_distance.json": read_feature_distance,
}
WRONG = [
    None,
    True,
    3,
    -1,
    1.5,
    "text",
    [],
    [1],
    {},
    {"a": 1},
    10**30,
    float("nan"),
    float("inf"),
    [[]],
    {"a": {"a": []}},
]


def places(content, path=()):
    """Paths to every value in nested containers."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("name", CONTENTS)
def test_a_value_of_a_wrong_type_is_named_by_file_and_key(tmp_path, name):
    """Each value is replaced by many others: the reader accepts it, or refuses it in one line."""
    file, refused = tmp_path / name, set()
    file.write_text(json.dumps(CONTENTS[name]))
    READERS[name](file)
    for path in places(CONTENTS[name]):
        for value in WRONG:
            file.write_text(json.dumps(replaced(CONTENTS[name], path, value)))
            try:
                READERS[name](file)
            except UserError as error:
                message = str(error)
                assert message.startswith(f"{file}: ")
                assert "\n" not in message
                assert not path or name == "config.yaml" or any(f"{part}" in message for part in path)
                refused.add(path)
    assert refused >= {path for path in places(CONTENTS[name]) if len(path) == 1 and path[0] != "preset"}


ENCODED = {
    "truncated": lambda text: text[: len(text) // 2].encode(),
    "empty": lambda text: b"",
    "null": lambda text: b"null",
    "list": lambda text: b"[]",
    "binary": lambda text: b"\x80\x81\xff\x00" * 9,
    "latin-1": lambda text: '{"é": 1}'.encode("latin-1"),
    "deep": lambda text: b"[" * 100_000,
    "digits": lambda text: b'{"seed": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("damage", ENCODED.values(), ids=ENCODED)
def test_a_damaged_file_is_named(tmp_path, name, damage):
    file = tmp_path / name
    file.write_bytes(damage(json.dumps(CONTENTS[name])))
    with pytest.raises(UserError) as error:
        READERS[name](file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", CONTENTS)
def test_other_unicode_encodings_are_read(tmp_path, name, encoding):
    file = tmp_path / name
    file.write_text(json.dumps(CONTENTS[name]), encoding=encoding)
    READERS[name](file)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ('{"step": "1"}', "step"),
        ('{"step": null}', "step"),
        ('{"step": -1}', "step"),
        ('{"step": 1.5}', "step"),
        ('{"lr": 0.1}', "step"),
        ('{"step": 1, "lr": "x"}', "lr"),
        ('{"step": 1, "lr": NaN}', "lr"),
        ('{"step": 1, "lr": 1e999}', "lr"),
        ('{"step": 1, "lr": [0.1]}', "lr"),
        ("[1]", "line 1"),
        ("null", "line 1"),
        ('{"step": 1, "l', "line 1"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_a_line_of_metrics_that_is_no_record_is_named(tmp_path, line, fact):
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 2, "lr": 0.1}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1: ") as error:
        read_metrics(tmp_path)
    assert fact in str(error.value)
    assert "\n" not in str(error.value)


def test_the_last_step_of_a_run_that_is_written_to(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert last_step(tmp_path) == 0
    for content, step in (("", 0), ('{"step": 7}\n', 7), ("[1]\n", 0), ('{"step": null}\n', 0), ('{"ste', 0)):
        file.write_text(content)
        assert last_step(tmp_path) == step


@pytest.mark.parametrize("read", [read_evaluation, read_feature_distance, read_versions])
def test_a_named_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(UserError, match=r"record\.json: a named pipe, not a file; "):
        read(tmp_path / "record.json")
