"""One reader for every JSON file: encodings, limits, and errors that name the file."""

import codecs
import json

import pytest

from afictl.errors import UserError
from afictl.json_files import iter_json_text, parse_json, read_json, read_json_text

CONTENT = {"name": "Übergrößenträger 🚲", "numbers": [1, 2.5, None, True]}
TEXT = json.dumps(CONTENT, ensure_ascii=False)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
WITH_MARK = {
    "utf-16-be with a mark": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32-be with a mark": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("content", [*(TEXT.encode(name) for name in ENCODINGS), *WITH_MARK.values()])
def test_every_encoding_gives_the_same_value(content, tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    assert read_json(file) == CONTENT
    assert parse_json(content, "text") == CONTENT
    assert read_json_text(file) == TEXT.encode()
    assert b"".join(iter_json_text(file, block_bytes=5)) == TEXT.encode()


def test_text_with_a_byte_order_mark_is_parsed():
    assert parse_json("\ufeff[1]", "text") == [1]


def test_numbers_that_python_writes_are_read():
    assert str(parse_json("[NaN, Infinity, -Infinity]", "text")) == "[nan, inf, -inf]"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[1, 2", "JSON: .*line 1"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[1" + b"0" * 10_000 + b"]", "digits"),
        (b'["\xff"]', "not valid UTF-8"),
        (codecs.BOM_UTF16_LE + b"[\x00\x00\xd8", "not valid UTF-16"),
        (b'["\\ud800"]', "surrogate"),
        (b"[1, // first\n 2]", "a comment in line 1"),
        (b'{"a": 1,\n /* b */ "b": 2}', "a comment in line 2"),
        (b"# COCO\n[]", "a comment in line 1"),
        (b"[1, 2,\n]", "a comma before the closing bracket"),
        (b'{"a": 1, }', "a comma before the closing bracket"),
        (b'{"a": 1}\n{"a": 2}\n', "line 2; make one list"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "key 'b' occurs twice"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<html></html>", "XML or HTML"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", "gzip"),
        (b"PK\x03\x04\x14\xff\xff\xff", "zip"),
    ],
)
def test_other_content_is_refused_by_file_and_reason(content, reason, tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"--flag .*file\.json: .*{reason}") as error:
        read_json(file, "--flag")
    assert len(str(error.value)) < 300 + len(str(file))


def test_repeated_keys_are_accepted_where_the_reader_says_so():
    assert parse_json(b'{"a": 1, "a": 2}', "text", unique_keys=False) == {"a": 2}


def test_an_escaped_pair_of_surrogates_is_one_character():
    assert parse_json(rb'["\ud83d\udeb2 \\ud800"]', "text") == ["🚲 \\ud800"]


@pytest.mark.parametrize(("name", "reason"), [("absent.json", "No such file"), ("folder", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(name, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: {reason}"):
        read_json(tmp_path / name)


def test_blocks_of_invalid_text_are_an_error(tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(b'["' + b"a" * 100 + b'\xff"]')
    with pytest.raises(UnicodeError):
        list(iter_json_text(file, block_bytes=10))
