import pytest

from afictl.control_characters import escape_control_characters, has_control_characters
from afictl.errors import one_line


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\udc80"])
def test_control_characters_are_escaped_as_python_writes_them(character):
    text = f"red{character}cell"
    assert has_control_characters(text)
    escaped = escape_control_characters(text)
    assert escaped == f"red{ascii(character)[1:-1]}cell"
    assert not has_control_characters(escaped)
    escaped.encode()


@pytest.mark.parametrize("text", ["Fußgänger", "非機動車", "non\u00a0breaking", "\U0001f469\u200d\U0001f680", r"a\n"])
def test_letters_of_any_script_and_joined_symbols_stay(text):
    assert not has_control_characters(text)
    assert escape_control_characters(text) == text


def test_a_message_has_no_sequence_that_a_terminal_obeys():
    assert one_line("file a\n\x1b[31mb") == r"file a \x1b[31mb"
