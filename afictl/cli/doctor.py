"""``afictl doctor``: versions, devices, optional parts and free space, and what needs mending."""

from __future__ import annotations

import typer

from afictl.cli import options
from afictl.cli.tables import wide_console


def doctor_command(debug: options.Debug = False) -> None:
    """Check this installation and machine: versions, devices, optional parts, memory, processors, free space.

    Exit code 0 if all is well, 1 if something needs mending.
    """
    from rich.markup import escape
    from rich.table import Table

    from afictl.installation import check_installation

    findings = list(check_installation())
    table = Table("", "found", "", box=None)
    for column in table.columns:
        column.overflow = "fold"
    for finding in findings:
        advice = f"[bold red]{escape(finding.fault)}[/]" if finding.fault else escape(finding.note)
        table.add_row(finding.subject, escape(finding.value), advice)
    console = wide_console()
    console.print(table)
    faults = [finding.subject for finding in findings if finding.fault]
    if faults:
        console.print(f"\nto be mended: {', '.join(faults)}", highlight=False)
        raise typer.Exit(1)
    console.print("\nall is well", highlight=False)
