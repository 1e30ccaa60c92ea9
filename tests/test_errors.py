"""Text of messages."""

from argparse import Namespace

import pytest

from afictl.errors import describe_type


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "an int"), ([], "a list"), (None, "None"), (OSError(), "an OSError"), (Namespace(), "a Namespace")],
)
def test_a_type_has_its_article(value, text):
    assert describe_type(value) == text
