"""The one exception for mistakes that the user can mend."""

import difflib
import errno
import re
from collections.abc import Sequence

_MOST_NAMES = 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_WANTED = re.compile(r"(?:tried|[Uu]nable) to allocate [\d.]+ \w+", re.IGNORECASE)
_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)")


class UserError(ValueError):
    """Wrong input from outside: says in one line what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def one_line(text: object) -> str:
    """The text of an error or message with all line breaks and runs of spaces folded to one space."""
    return " ".join(str(text).split())


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full or a quota used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def format_error(error: Exception) -> str:
    """What an error says, in one line; of the system's: the file, the reason and, where a disk is full, what to do."""
    if not isinstance(error, OSError) or not error.strerror:
        return one_line(error)
    hint = "; free some" if is_disk_full(error) else ""
    return f"{f'{error.filename}: ' if error.filename is not None else ''}{error.strerror}{hint}"


def describe_out_of_memory(error: BaseException) -> tuple[str, str]:
    """What is said where memory ran out, which every library tells in its own way, and what takes less of it.

    Both are empty where an error is about something else.
    """
    text = one_line(error)
    worker = _LOST_WORKER.search(text)
    if worker:
        how = f"was killed ({worker[1].strip()})" if worker[1] else "was killed"
        said = f"a process that loads images {how}, as where memory or shared memory runs out"
        return said, "fewer take less: --set loader.workers=N"
    lacking = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)  # the first is torch's
    if not lacking and "can't allocate memory" not in text:
        return "", ""
    place = "of the GPU " if text.startswith("CUDA") else ""
    wanted = _WANTED.search(text)
    detail = f" ({wanted[0][0].lower()}{wanted[0][1:]})" if wanted else ""
    less = "a smaller batch_size or max_size (--set) or --precision bf16-mixed takes less"
    return f"the memory {place}is too small{detail}", less


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
