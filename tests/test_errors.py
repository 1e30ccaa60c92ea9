"""Text of messages."""

from argparse import Namespace

import pytest

from afictl.errors import closest_names, describe_type, plain_constraint

NAMES = ("faster-rcnn-r101-fpn", "faster-rcnn-r18-bifpn-tiny", "faster-rcnn-r18-fpn-tiny", "fcos-r18-fpn-tiny", "afi")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "an int"), ([], "a list"), (None, "None"), (OSError(), "an OSError"), (Namespace(), "a Namespace")],
)
def test_a_type_has_its_article(value, text):
    assert describe_type(value) == text


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("AFI", ["afi"]),
        ("Faster-RCNN-R101-fpn", ["faster-rcnn-r101-fpn"]),
        ("faster-rcnn-r18", ["faster-rcnn-r18-fpn-tiny", "faster-rcnn-r18-bifpn-tiny"]),
        ("faster-rcnn-r101-fnp", ["faster-rcnn-r101-fpn"]),
        ("f", []),
        ("", []),
    ],
)
def test_names_that_begin_with_the_word_come_first(word, nearest):
    assert closest_names(word, NAMES, 3)[: len(nearest) or None] == nearest


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Input should be greater than or equal to 1", "must be at least 1"),
        ("Input should be less than or equal to 9", "must be at most 9"),
        ("Input should be greater than 0", "must be greater than 0"),
        ("Input should be a valid integer, unable to parse string as an integer", "must be an integer"),
        ("Input should be 'sgd' or 'adamw'", "must be 'sgd' or 'adamw'"),
        ("needs a number, not text", "needs a number, not text"),
    ],
)
def test_messages_of_pydantic_are_plain(message, words):
    assert plain_constraint(message) == words
