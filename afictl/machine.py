"""Memory, processors and free space of this machine or its container; without torch."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_ADVICE = "give /dev/shm more, such as docker run --shm-size=8g"
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CPU_LIMIT = "/sys/fs/cgroup/cpu.max"
_FORMER_CPU_LIMIT = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def machine_memory() -> float:
    """Bytes of memory that this machine, or its container, has; infinite where it is not known."""
    sizes = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _MEMORY_LIMITS:
        with suppress(ValueError, OSError):  # "max" for none
            sizes.append(int(Path(file).read_text()))
    return min(size for size in sizes if size > 0)


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_limit() -> float:
    """Cores whose time the container may use, perhaps a fraction; infinite without a limit."""
    with suppress(ValueError, OSError):  # "max" for none
        quota, period = Path(_CPU_LIMIT).read_text().split()
        return int(quota) / int(period)
    with suppress(ValueError, OSError):
        microseconds, of = (int(Path(file).read_text()) for file in _FORMER_CPU_LIMIT)
        return microseconds / of if microseconds > 0 else float("inf")
    return float("inf")
