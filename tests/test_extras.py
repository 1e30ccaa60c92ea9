import re
from pathlib import Path

import pytest

from afictl import UserError
from afictl.extras import EXTRAS, import_optional

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_extras_are_those_of_the_package():
    text = PYPROJECT.read_text(encoding="utf-8")
    for extra, packages in EXTRAS.items():
        (line,) = re.findall(rf"^{extra} = (\[[^#\n]*\])(?:  #.*)?$", text, re.MULTILINE)
        assert len(re.findall(r'"[^"]+"', line)) == len(packages)
    (everything,) = re.findall(r'^all = \["afictl\[(.*)\]"\]$', text, re.MULTILINE)
    assert set(everything.split(",")) == set(EXTRAS)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(EXTRAS, "some", ("absent_package",))
    with pytest.raises(UserError, match=r"--flag needs .*absent_package: pip install 'afictl\[some\]'"):
        import_optional("absent_package", "--flag")
