"""What ends a command early, told in one line."""

import os
import sys
import time
from difflib import get_close_matches
from typing import Any

import typer

from afictl.errors import UserError, describe_out_of_memory, format_error, is_disk_full, one_line

# Newer typer carries its own copy of click, so these are reached through what both kinds of typer offer.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = typer.BadParameter.__mro__[2]

INTERRUPTED = 130
"""The exit code that shells give for a program ended by Ctrl-C."""
_RESUMABLE = ("pretrain", "finetune")
_REPEATABLE = ("compare", "demo")
_SETTABLE = (*_RESUMABLE, "compare")
_PATIENCE = 5.0
"""Seconds in which rank 0 fails too where the fault is common to all."""


def report_error(error: BaseException) -> int:
    """Print the one line that ``error`` deserves on stderr; return the exit code.

    Raises:
        Exception: ``error`` itself when ``--debug`` is given and it is no mistake in the command line.
    """
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return report_interrupt()
    if type(error).__name__ == "NoArgsIsHelpError":  # click from 8.2 on
        typer.echo(str(error))
        return 0
    if "--debug" in sys.argv and not isinstance(error, _ClickError):
        raise error
    line, code = _describe(error)
    if not _told_by_rank_0(error):
        typer.echo(f"error: {one_line(line)}", err=True)
    return code


def report_interrupt() -> int:
    """Say that the command was stopped, and how to go on; return the exit code."""
    if _rank() == "0":
        typer.echo(f"stopped{_advice()}", err=True)
    return INTERRUPTED


def _advice() -> str:
    """How to go on with a command that has kept what it had done."""
    command = "".join(sys.argv[1:2])
    if command in _RESUMABLE:
        return "; the same command with --resume goes on"
    return "; the same command goes on" if command in _REPEATABLE else ""


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, _UsageError):
        return _usage(error), 2
    if isinstance(error, _ClickError):
        return error.format_message(), 2
    if isinstance(error, OSError):
        return _system(error), 2
    lacking, less = describe_out_of_memory(error)
    if lacking:
        if "".join(sys.argv[1:2]) not in _SETTABLE:
            return lacking, 1
        on = _advice() if "loader." in less else ""  # other settings are not changed by --resume
        return f"{lacking}; {less}{on}", 1
    what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return f"unexpected {what}; run again with --debug for the traceback", 1


def _usage(error: Any) -> str:
    message = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    message = f"{message[:1].lower()}{message[1:]}"
    if error.ctx is None:
        return message
    option = getattr(error, "option_name", None)
    if option and type(error).__name__ == "NoSuchOption":
        known = [name for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts]
        close = get_close_matches(option, known, n=1)
        message = f"no such option '{option}'" + (f"; did you mean '{close[0]}'?" if close else "")
    return f"{message}; see '{error.ctx.command_path} --help'"


def _system(error: OSError) -> str:
    if is_disk_full(error):
        return format_error(error) + _advice().replace(";", ", and", 1)
    if error.filename is not None:
        return format_error(error)
    if str(error.strerror).startswith("No usable temporary directory"):
        return f"{error.strerror}: they are full or cannot be written to; free some, or name another with TMPDIR"
    return f"{type(error).__name__}: {error}; run again with --debug for the traceback"


def _rank() -> str:
    return os.environ.get("LOCAL_RANK", "0")


def _told_by_rank_0(error: BaseException) -> bool:
    """Whether the process that started this one as a further rank ends as well, having told the same.

    A fault of one rank alone, such as an image that only it reads, leaves rank 0 waiting and must be told here.
    """
    if _rank() == "0":
        return False
    if getattr(error, "raised_on_all_ranks", False):
        return True
    starter, deadline = os.getppid(), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if os.getppid() != starter:
            return True
        time.sleep(0.05)
    return False
