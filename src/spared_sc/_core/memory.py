"""Memory that is left on this machine, and files that ask for more of it."""

from __future__ import annotations

import os
from pathlib import Path

_SHARE = 0.75  # of the memory that is left, for one file
_UNKNOWN = 8 * 2**30  # where the system does not tell
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available() -> int:
    """Bytes that this process can still take: of the machine, of its container and of its own limit."""
    known = [value for value in (_of_machine(), _of_container(), _of_process()) if value is not None]
    return max(0, min(known, default=_UNKNOWN))


def check_memory(what: str, needed: float, remedy: str, left: float | None = None) -> None:
    """Refuse, before it begins, what needs more than three quarters of the available memory, or of the bytes `left`."""
    left = available() if left is None else left
    if needed > _SHARE * left:
        raise ValueError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory, more than three quarters of the {left / 2**30:.1f} GiB that are "
            f"available: {remedy}"
        )


def _numbers(path: str) -> dict[str, int]:
    """Lines `name number` of a file of the system; empty where there is none."""
    try:
        lines = [line.replace(":", " ").split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def _of_machine() -> int | None:
    left = _numbers("/proc/meminfo").get("MemAvailable")
    if left is not None:
        return 1024 * left
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all there is, where the rest is not told
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> int | None:
    for limit, used, parts in _CGROUPS:
        try:
            most, taken = (Path(path).read_text().strip() for path in (limit, used))
        except OSError:
            continue
        if most.isdecimal() and taken.isdecimal():
            return int(most) - int(taken) + _numbers(parts).get("inactive_file", 0)  # files that are only cached
    return None


def _of_process() -> int | None:
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return None
    return None if most == resource.RLIM_INFINITY else most - taken
