"""The one exception for mistakes that the user can mend."""

import difflib
import errno
from collections.abc import Sequence

_MOST_NAMES = 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class UserError(ValueError):
    """Wrong input from outside: says in one line what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full or a quota used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def in_words(error: Exception) -> str:
    """What an error says, in one line; of the system's: the file, the reason and, where a disk is full, what to do."""
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    hint = "; free some" if is_full(error) else ""
    return f"{f'{error.filename}: ' if error.filename is not None else ''}{error.strerror}{hint}"


def did_you_mean(word: str, known: Sequence[str], *, listed_by: str = "") -> str:
    """The end of an error about an unknown name: the nearest known one, or the first of all when none is near.

    Of names that are too many for a line, ``listed_by`` is the command that shows them; the nearest few are told.
    """
    if listed_by:
        near = ", ".join(f"'{name}'" for name in difflib.get_close_matches(word, known, n=3))
        return (f"; did you mean {near}?" if near else "") + f"; '{listed_by}' shows all"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"; there are: {', '.join(known[:_MOST_NAMES]) or 'none'}{more}"
