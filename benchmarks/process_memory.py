"""Memory of the running process, from ``/proc`` of Linux."""

from __future__ import annotations

from pathlib import Path


def process_memory() -> dict[str, float]:
    """Memory of this process in megabytes; zero on systems without ``/proc``.

    ``peak`` and ``resident`` include shared pages. ``own`` are private dirty pages, which cannot be shared or dropped;
    ``unshared`` also includes clean pages of files that no other process has mapped. The peak is not that of
    getrusage, which includes the parent process.
    """
    kilobytes: dict[str, int] = {}
    for name in ("status", "smaps_rollup"):
        try:
            lines = Path("/proc/self", name).read_text().splitlines()
        except OSError:
            lines = []
        fields = (line.split() for line in lines)
        kilobytes |= {words[0]: int(words[1]) for words in fields if len(words) == 3 and words[2] == "kB"}
    dirty, clean = (kilobytes.get(f"Private_{kind}:", 0) for kind in ("Dirty", "Clean"))
    sizes = {"peak": kilobytes.get("VmHWM:", 0), "resident": kilobytes.get("VmRSS:", 0)}
    return {name: value / 1000 for name, value in (sizes | {"own": dirty, "unshared": dirty + clean}).items()}
