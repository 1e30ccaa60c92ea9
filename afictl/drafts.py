"""Half-written files of processes that were killed: every file is first written beside its place as ``.NAME.PID``."""

from __future__ import annotations

import os
import re
from pathlib import Path

_DRAFT = re.compile(r"\..+\.(?:json|jsonl|yaml|csv|html|png|pt|safetensors)\.(\d+)")


def remove_drafts(folder: Path) -> None:
    """Remove the drafts in ``folder`` whose processes are gone; nothing where there is no such folder."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _DRAFT.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True
