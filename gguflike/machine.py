"""How much memory the machine has, and how it is given to threads, on each system in its own way."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

#: Taken for the machine's memory where the system does not tell.
ASSUMED_BYTES = 8 << 30
_M_ARENA_MAX = -8  # of glibc's malloc.h


def machine_bytes() -> int:
    """Bytes of the machine's memory."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if hasattr(ctypes, "WinDLL"):
        # MEMORYSTATUSEX: two DWORD, of which the first is the size of all, and seven DWORDLONG, the first is the memory
        status = (ctypes.c_uint64 * 8)(64)
        if ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status[1])
    return ASSUMED_BYTES


def trim_heap() -> bool:
    """Give pages of the heap that hold nothing back to the system, where the C library is glibc, which keeps them
    otherwise: large things that were there for a moment leave holes that small ones make use of, and what comes next
    finds none that is large enough. Takes milliseconds, in which other threads wait for memory, but may run Python.
    Returns False where it cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return True


def share_heap() -> None:
    """Let all threads of this process take memory from one heap, where the C library is glibc: there each has one of
    its own otherwise, in which stays what its busiest moments left. A server kept twice the memory, and more each
    minute.

    It is a setting of the process, for a program to make at its start.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library has no such call, or cannot be asked
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
