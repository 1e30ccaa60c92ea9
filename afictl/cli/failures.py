"""Errors and interrupts of a command: one line on stderr and an exit code."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from afictl.cli.command_line import name_flag, value_of
from afictl.errors import (
    UserError,
    closest_names,
    describe_out_of_memory,
    format_error,
    is_disk_full,
    one_line,
    plain_constraint,
)
from afictl.launchers import OWN_LAUNCHER, launched_process

if TYPE_CHECKING:
    from afictl.training.rendezvous import Group

# Newer typer contains a copy of click, so click's classes are taken from typer's.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = typer.BadParameter.__mro__[2]

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended, by the convention of shells."""
_RESUMABLE = ("pretrain", "finetune")
_REPEATABLE = ("compare", "demo", "pseudo-label")
_SETTABLE = (*_RESUMABLE, "compare")
_EXTRA_ARGUMENT = re.compile(r"got unexpected extra argument\S* \(([^ )]+)")
_EXIT_SECONDS = 3.0
"""A process that fails waits so long, as a launcher ends the others, which may report it, as soon as one has ended."""
_RANK_ZERO_SECONDS = 5.0
"""Within this time rank 0 has reported an error that all ranks raise, such as a mistake in the command."""


def report_error(error: BaseException) -> int:
    """Print one line about ``error`` on stderr; return the exit code.

    Raises:
        Exception: ``error`` itself with ``--debug``, unless it is a mistake in the command line.
    """
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return report_interrupt()
    if type(error).__name__ == "NoArgsIsHelpError":  # click from 8.2 on
        typer.echo(str(error))
        return 0
    if "--debug" in sys.argv and not isinstance(error, _ClickError):
        raise error
    line, code = _describe(error)
    line = name_flag(one_line(line))
    if "afictl.training.rendezvous" in sys.modules:  # in a command that may use several processes
        from afictl.training.rendezvous import current_group

        if group := current_group():
            return _report_in_group(error, line, code, group)
    if getattr(error, "raised_on_all_ranks", False) and _rank():
        return code
    if rank := _rank():
        time.sleep(_RANK_ZERO_SECONDS)  # torchrun ends this process meanwhile
        line = f"process {rank}: {line}"
    typer.echo(f"error: {line}", err=True)
    return code


def _report_in_group(error: BaseException, line: str, code: int, group: Group) -> int:
    """Print one line for all processes of a group; return the exit code.

    Rank 0 prints the error of any process; if it is gone without a message, rank 1 says so.
    """
    from afictl.distributed import is_connection_lost
    from afictl.training import rendezvous

    rank, is_launched = group.process.rank, group.process.launcher != OWN_LAUNCHER
    if rank and getattr(error, "raised_on_all_ranks", False):
        time.sleep(_EXIT_SECONDS if is_launched else 0)
        return code
    if is_connection_lost(error):
        failure = group.find_failure()
        if rank == 0 or (rank == 1 and failure.rank == 0 and not failure.is_announced):
            typer.echo(f"error: process {failure.rank}: {failure.reason}{_continuation()}", err=True)
        return code
    if rank == 0:
        typer.echo(f"error: {line}", err=True)
    group.announce_failure(line)
    rendezvous.leave()  # now the others notice
    time.sleep(_EXIT_SECONDS if is_launched else 0)
    return code


def report_interrupt() -> int:
    """Print that the command was stopped, and how to continue; return the exit code."""
    if _rank() == 0:
        typer.echo(f"stopped{_continuation()}", err=True)
    return INTERRUPTED


def _continuation() -> str:
    """Suffix of a message: how to continue a command that has saved part of its work; empty for other commands."""
    command = "".join(sys.argv[1:2])
    if command in _RESUMABLE:
        return "; the same command with --resume continues"
    return "; the same command continues" if command in _REPEATABLE else ""


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, _UsageError):
        return _usage(error), 2
    if isinstance(error, _ClickError):
        return error.format_message(), 2
    if isinstance(error, OSError):
        return _system(error), 2
    reason, hint = describe_out_of_memory(error)
    if reason:
        if "".join(sys.argv[1:2]) not in _SETTABLE:
            return reason, 1
        continuation = _continuation() if "loader." in hint else ""  # --resume changes no other settings
        return f"{reason}; {hint}{continuation}", 1
    message = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return f"unexpected {message}; run again with --debug for the traceback", 1


def _usage(error: Any) -> str:
    message = plain_constraint(error.format_message()).rstrip(".").replace(". Did you mean", "; did you mean")
    message = f"{message[:1].lower()}{message[1:]}"
    if error.ctx is None:
        return message
    names = [name for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts]
    options = [name for name in names if name.startswith("-")]
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    if option and type(error).__name__ == "NoSuchOption":
        message = f"no such option '{option}'{_similar_option(option, options, error.ctx.command.name)}"
        if option.strip("-") in names:
            message = (
                f"no such option '{option}': {option.strip('-').upper()} is an argument; give it without '{option}'"
            )
    elif argument := _EXTRA_ARGUMENT.match(message):
        flag = next((flag for flag in ("--weights", "--guide") if flag in options), "")
        message += f"; did you mean {flag} {argument[1]}?" if flag and Path(argument[1]).exists() else ""
    elif parameter is not None and ": must be " in message and (value := value_of(parameter.opts)):
        message += f" (got {value:.40})"
    return f"{message}; see '{error.ctx.command_path} --help'"


def _similar_option(option: str, options: list[str], command: str) -> str:
    """Suffix of an error about an unknown option: the keys of a preset with its name, else the most similar option."""
    if "--set" in options:
        from afictl.presets.validation import keys_named

        other_stages = ("train.",) if command == "pretrain" else ("stage1.", "stage2.")
        keys = [key for key in keys_named(option.strip("-").replace("-", "_")) if not key.startswith(other_stages)]
        if keys:
            value = value_of((option,))
            value = "VALUE" if not value or value.startswith("--") else value
            return f"; did you mean {' or '.join(f'--set {key}={value}' for key in keys)}?"
    close = closest_names(option, options, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _system(error: OSError) -> str:
    if is_disk_full(error):
        return format_error(error) + _continuation().replace(";", ", and", 1)
    if error.filename is not None:
        return format_error(error)
    if str(error.strerror).startswith("No usable temporary directory"):
        return f"{error.strerror}: full or not writable; free some space or set TMPDIR to another folder"
    return f"{type(error).__name__}: {error}; run again with --debug for the traceback"


def _rank() -> int:
    """Rank that a launcher gave to this process; 0 without one."""
    try:
        process = launched_process()
    except UserError:
        return 0
    return process.rank if process else 0
