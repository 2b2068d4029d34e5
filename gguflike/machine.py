"""How much memory the machine has, on each system in its own way."""

from __future__ import annotations

import ctypes
import os

#: Taken for the machine's memory where the system does not tell.
ASSUMED_BYTES = 8 << 30


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
