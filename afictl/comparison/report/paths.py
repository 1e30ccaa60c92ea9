"""How the report names files: not by where this machine happens to keep them, where that can be left out."""

from __future__ import annotations

import re
from pathlib import Path


def nearby(text: str, *folders: Path) -> str:
    """``text`` with every path in it that lies below one of ``folders`` named from there; others stay as they are."""
    for folder in folders:
        start = re.escape(str(folder.resolve()).rstrip("/"))
        text = re.sub(rf"(?<![^\s'\"(=]){start}/(?=[^\s/])", "", text)
    return text
