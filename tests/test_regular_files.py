"""Readers of files of a run or of the user refuse what has no end, by its name and kind."""

import os
import socket
from pathlib import Path

import pytest

from afictl import UserError, load_preset
from afictl.cli.eval_sources import require_sources
from afictl.comparison.records import read_comparison, read_experiment, read_result
from afictl.data.formats.text_lines import read_lines
from afictl.json_files import read_json, read_json_lines
from afictl.regular_files import open_regular, read_bounded
from afictl.run_records import last_step, read_config, read_metrics
from afictl.weights.classes import read_classes
from afictl.weights.saved_state import read_saved_state
from afictl.xml_files import read_xml
from afictl.yaml_files import read_yaml


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))  # an address has at most 107 bytes


SPECIAL = {
    "a named pipe": os.mkfifo,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "Is a directory": os.mkdir,
    "": make_socket,  # opening it fails by a reason of the system
}
READERS = {
    "result.json": lambda folder: read_result(folder),
    "compare.json": lambda folder: read_experiment(folder),
    "comparison.json": lambda folder: read_comparison(folder / "comparison.json"),
    "config.yaml": lambda folder: read_config(folder / "config.yaml"),
    "state.pt": lambda folder: read_saved_state(folder / "state.pt"),
    "names.json": lambda folder: read_classes(str(folder / "names.json")),
    "preset.yaml": lambda folder: load_preset(folder / "preset.yaml"),
    "predictions.json": lambda folder: require_sources(None, [folder / "predictions.json"]),
    "metrics.jsonl": lambda folder: read_metrics(folder),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", READERS)
def test_readers_name_the_file_and_its_kind(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    SPECIAL[kind](tmp_path / name)
    with pytest.raises(UserError) as error:
        READERS[name](tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert name in message or str(tmp_path) in message
    if name not in ("state.pt", "metrics.jsonl") and "directory" not in kind:
        assert kind in message


def test_a_preset_that_extends_a_device_says_so(tmp_path):
    (tmp_path / "preset.yaml").write_text("extends: /dev/zero\n")
    with pytest.raises(UserError, match=r"^/dev/zero: a device, not a file"):
        load_preset(tmp_path / "preset.yaml")


def test_the_last_step_of_a_pipe_is_zero(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert last_step(tmp_path) == 0


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_pipe_of_the_shell_is_read_to_its_end(read):
    reading, writing = os.pipe()
    os.write(writing, b"[1, 2]")
    os.close(writing)
    try:
        assert read(Path(f"/dev/fd/{reading}")) == [1, 2]
    finally:
        os.close(reading)


def test_descriptors_are_closed(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("read", [read_json, read_json_lines, read_yaml, read_xml, read_lines])
def test_a_file_of_holes_is_refused_by_its_size(tmp_path, read):
    file = tmp_path / "file"
    with file.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match=rf"^{file}: larger than [\d,]+ bytes$"):
        read(file)


def test_a_pipe_is_read_up_to_the_bound():
    reading, writing = os.pipe()
    os.write(writing, b"12345")
    os.close(writing)
    try:
        with pytest.raises(UserError, match="larger than 3 bytes"):
            read_bounded(Path(f"/dev/fd/{reading}"), 3)
    finally:
        os.close(reading)


def test_a_file_as_large_as_the_bound_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"123")
    assert read_bounded(tmp_path / "file", 3) == b"123"
    with pytest.raises(UserError, match=r"^the file: larger than 2 bytes"):
        read_bounded(tmp_path / "file", 2, "the file")
