"""User errors, and one-line descriptions of errors."""

import difflib
import errno
import re
from collections.abc import Iterable, Sequence

from afictl.control_characters import escape_control_characters

_MAX_NAMES = 20
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_REQUESTED = re.compile(r"(?:tried|[Uu]nable) to allocate [\d.]+ \w+", re.IGNORECASE)
_CONSTRAINTS = {
    "Input should be ": "must be ",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid integer": "an integer",
    "a valid number": "a number",
}
"""Words of pydantic -> plain words."""
_PARSER_DETAIL = re.compile(r"(must be an? (?:integer|number)), .*")
_MIN_PREFIX = 3
"""Characters of an unknown name that the names which begin with it are suggested for."""
_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)")


class UserError(ValueError):
    """Wrong input: one line that states what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def one_line(text: object) -> str:
    """Text of an error or message with all whitespace reduced to single spaces, and control characters escaped."""
    return escape_control_characters(" ".join(str(text).split()))


def describe_type(value: object) -> str:
    """The type of ``value`` with its article, as a noun in a message: ``an int``, ``a list``; ``None`` for None."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def is_disk_full(error: BaseException) -> bool:
    """Whether the error is a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def format_error(error: BaseException) -> str:
    """Format an error as one line; for an ``OSError`` file, reason and, for a full disk, a hint."""
    if not isinstance(error, OSError) or not error.strerror:
        return one_line(error)
    hint = "; free some space" if is_disk_full(error) else ""
    return f"{f'{error.filename}: ' if error.filename is not None else ''}{error.strerror}{hint}"


def is_lost_worker(error: BaseException) -> bool:
    """Whether a worker process of a ``DataLoader`` was killed."""
    return _LOST_WORKER.search(str(error)) is not None


def describe_out_of_memory(error: BaseException) -> tuple[str, str]:
    """Message and hint for an out-of-memory error of any library; two empty strings for other errors."""
    text = one_line(error)
    worker = _LOST_WORKER.search(text)
    if worker:
        signal = f" ({worker[1].strip()})" if worker[1] else ""
        message = f"a loader process was killed{signal}, probably because memory or shared memory ran out"
        return message, "use fewer loader processes: --set loader.workers=N"
    out_of_memory = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)  # the first is torch's
    if not out_of_memory and "can't allocate memory" not in text:
        return "", ""
    device = "of the GPU " if text.startswith("CUDA") else ""
    requested = _REQUESTED.search(text)
    detail = f" ({requested[0][0].lower()}{requested[0][1:]})" if requested else ""
    hint = "use a smaller batch_size or max_size (--set) or --precision bf16-mixed"
    return f"the memory {device}is too small{detail}", hint


def first_names(names: Sequence[str]) -> str:
    """The first three names for a message, and an ellipsis if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def plain_constraint(message: str) -> str:
    """A message of pydantic in plain words: ``Input should be less than or equal to 9`` as ``must be at most 9``."""
    for words, plain in _CONSTRAINTS.items():
        message = message.replace(words, plain)
    return _PARSER_DETAIL.sub(r"\1", message)


def closest_names(word: str, names: Iterable[str], count: int, cutoff: float = 0.6) -> list[str]:
    """The names that begin with ``word``, shortest first, then similar ones; upper and lower case are the same.

    Args:
        word: unknown name.
        names: all valid names.
        count: largest number of names.
        cutoff: smallest similarity, 0..1, as in ``difflib.get_close_matches``.
    """
    originals = {name.casefold(): name for name in names}
    lower = word.casefold()
    longer = sorted((name for name in originals if len(word) >= _MIN_PREFIX and name.startswith(lower)), key=len)
    similar = difflib.get_close_matches(lower, originals, n=count, cutoff=cutoff)
    return [originals[name] for name in dict.fromkeys((*longer, *similar))][:count]


def did_you_mean(word: str, names: Sequence[str], *, listed_by: str = "") -> str:
    """Suffix of an error about an unknown name: the closest valid name, or the first valid names if none is close.

    Args:
        word: unknown name.
        names: all valid names.
        listed_by: command that lists many names; then the suffix has the three closest names and this command.
    """
    if listed_by:
        near = ", ".join(f"'{name}'" for name in closest_names(word, names, 3))
        return (f"; did you mean {near}?" if near else "") + f"; '{listed_by}' shows all"
    close = closest_names(word, names, 1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"; there are: {', '.join(names[:_MAX_NAMES]) or 'none'}{more}"
