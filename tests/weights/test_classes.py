"""Values of ``--classes``."""

import json

import pytest

from afictl import UserError
from afictl.weights.classes import read_classes


@pytest.mark.parametrize("count", [1, 3, 80, 1203])
def test_names_are_separated_by_commas(count):
    names = [f"class {k}" for k in range(count)]  # from 80 on, longer than a file name may be
    assert read_classes(", ".join(names))[:2] == (names, list(range(1, count + 1)))


@pytest.mark.parametrize("name", ["names.json", "names.txt", "names"])
def test_a_file_may_contain_a_list_of_names(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(["cat", "dog"]))
    assert read_classes(str(tmp_path / name))[:2] == (["cat", "dog"], [1, 2])


@pytest.mark.parametrize("text", ["nowhere.txt", "no/where"])
def test_missing_file_is_not_a_class_name(text):
    with pytest.raises(UserError, match=f"--classes {text}: .*No such file"):
        read_classes(text)


@pytest.mark.parametrize("text", ["cat,", "cat,cat", ""])
def test_empty_or_repeated_names_are_refused(text):
    with pytest.raises(UserError, match=f"--classes {text}: .*unique"):
        read_classes(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_any_encoding_of_json(tmp_path, encoding):
    (tmp_path / "names.json").write_bytes('["Rad", "Fußgänger"]'.encode(encoding))
    assert read_classes(str(tmp_path / "names.json"))[0] == ["Rad", "Fußgänger"]


@pytest.mark.parametrize("content", ["[" * 100_000, '{"categories": [], "categories": []}', '["\\ud800"]', "[1, 2"])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(UserError, match=r"--classes .*names\.json: .*JSON list"):
        read_classes(str(tmp_path / "names.json"))
