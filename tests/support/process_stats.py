"""Figures that Linux keeps about a process: memory, CPU time and open descriptors, read from /proc by process id."""

import os
from pathlib import Path


def resident_memory(pid: int) -> int:
    """Return the resident memory in bytes (VmRSS)."""
    return _status_bytes(pid, "VmRSS")


def anonymous_memory(pid: int) -> int:
    """Return the resident memory in bytes without mapped files (RssAnon): what a container's limit cannot reclaim."""
    return _status_bytes(pid, "RssAnon")


def peak_memory(pid: int) -> int:
    """Return the largest resident memory so far, in bytes (VmHWM)."""
    return _status_bytes(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time used so far in user and system mode, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_descriptors(pid: int) -> int:
    """Return the number of open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - numbers, no paths


def _status_bytes(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024
