"""What kernels need from the machine without numba: the folder for compiled code, and how many threads to use.

Every run of a model imports this, so it does without pathlib, hashlib and concurrent.futures, 15 ms together.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import source_hash

from gguflike.errors import OutputError


def digest(data: bytes) -> str:
    """16 hex digits that tell sources apart: the hash by which Python knows its own (hashlib would load OpenSSL)."""
    return source_hash(data).hex()


def _sources(folder: str) -> list[str]:
    """Paths of all Python files below a folder, sorted."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found += _sources(entry.path)
            elif entry.name.endswith(".py"):
                found.append(entry.path)
    return sorted(found)


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """A digest over every source file of ``gguflike.kernels``, names included."""
    root = os.path.dirname(os.path.dirname(__file__))
    parts = []
    for path in _sources(root):
        with open(path, "rb", buffering=0) as file:
            parts += [path[len(root) :].encode(), file.read()]
    return digest(b"\0".join(parts))


def _usable(folder: str) -> bool:
    """Whether the folder exists or can be made, takes files, and is ours alone (machine code is loaded from it)."""
    try:
        os.makedirs(folder, exist_ok=True, mode=0o700)
        owner = os.stat(folder).st_uid
    except OSError:
        return False
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK) and (not hasattr(os, "getuid") or owner == os.getuid())


@lru_cache(maxsize=1)
def cache_dir() -> str:
    """Folder for compiled kernels: $GGUFLIKE_CACHE_DIR, else the user's cache folder, else a temporary one."""
    home = os.path.join(os.path.expanduser("~"), ".cache")
    base = os.environ.get("GGUFLIKE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or home
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"kernels-{sources_digest()}"
    folder = os.path.join(base, "gguflike", name)
    if _usable(folder):
        return folder
    import tempfile

    other = os.path.join(tempfile.gettempdir(), f"gguflike-{user}-{name}")
    if _usable(other):
        return other
    raise OutputError(
        "no writable folder for compiled kernels",
        got=f"{folder}, {other}",
        remedy="set GGUFLIKE_CACHE_DIR to a folder of your own",
    )


#: What /proc/cpuinfo tells of a CPU that decides which machine code it runs best, on x86, Arm and RISC-V.
_CPU_FACTS = {
    *("vendor_id", "cpu family", "model", "model name", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
    *("isa", "uarch"),
}


@lru_cache(maxsize=1)
def cpu() -> str:
    """The first CPU's model and features as the kernel reports them; "" where it does not."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:  # one page is enough, and all CPUs may take long
            first = file.read(1 << 12).decode("utf-8", "replace").strip().partition("\n\n")[0]
    except OSError:
        return ""
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in first.splitlines()]
    return "; ".join(f"{key} {value}" for key, value in pairs if key in _CPU_FACTS)


def thread_count(threads: int | None = None) -> int:
    """``threads`` if given, else $GGUFLIKE_THREADS, else the CPUs this process may use."""
    if threads is not None:
        return max(1, threads)
    if value := os.environ.get("GGUFLIKE_THREADS"):
        return max(1, int(value))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
