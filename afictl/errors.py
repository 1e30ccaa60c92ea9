"""The one exception for mistakes that the user can mend."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """Wrong input from outside: says in one line what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, or all of them when none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(known) or 'none'}"
