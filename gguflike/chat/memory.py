"""How much memory and time a child process has used, on each system in its own way."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguflike.chat.ready import Forked


def process_bytes(process: subprocess.Popen[Any] | Forked) -> int | None:
    """Bytes of memory that a child process holds. None where it has ended, or the system does not tell."""
    if hasattr(ctypes, "WinDLL"):
        # PROCESS_MEMORY_COUNTERS: two DWORD, of which the first is the size of all, and eight SIZE_T, the seventh is
        # what the process has committed
        counters = (ctypes.c_uint64 * 9)(72)
        handle = ctypes.c_void_p(int(process._handle))  # type: ignore[union-attr]
        done = ctypes.WinDLL("kernel32").K32GetProcessMemoryInfo(handle, ctypes.byref(counters), 72)
        return int(counters[7]) if done else None
    pages = _resident_pages(f"/proc/{process.pid}/statm")
    if pages is not None:
        return pages * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no such program, no such process
        listed = subprocess.run(["ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True, check=False)
        return int(listed.stdout) << 10
    return None


def process_seconds(process: subprocess.Popen[Any] | Forked) -> float | None:
    """Seconds of CPU time that a child process has used. None where it has ended, or the system does not tell."""
    if hasattr(ctypes, "WinDLL"):
        times = (ctypes.c_uint64 * 4)()  # created, ended, in the kernel, of its own: in units of 100 ns
        places = [ctypes.byref(times, 8 * place) for place in range(4)]
        handle = ctypes.c_void_p(int(process._handle))  # type: ignore[union-attr]
        done = ctypes.WinDLL("kernel32").GetProcessTimes(handle, *places)
        return (times[2] + times[3]) / 1e7 if done else None
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{process.pid}/stat", "rb") as file:  # noqa: PTH123
        user, system = file.read().rpartition(b")")[2].split()[11:13]  # behind the program's name
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    with suppress(OSError, ValueError):
        listed = subprocess.run(["ps", "-o", "time=", "-p", str(process.pid)], capture_output=True, check=False)
        seconds = 0.0
        for part in listed.stdout.decode().replace("-", ":").split(":"):  # days, hours, minutes, seconds
            seconds = seconds * 60 + float(part)
        return seconds
    return None


def _resident_pages(path: str) -> int | None:
    """The second number in Linux's statm of a process; None on other systems, and when the process has ended."""
    with suppress(OSError, ValueError, IndexError), open(path, "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1])
    return None
