"""What kernels need from the machine without numba: the folder for compiled code, and how many threads to use."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from gguflike.errors import OutputError


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """First 16 hex digits of the SHA-256 over every source file of ``gguflike.kernels``, names included."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _usable(folder: Path) -> bool:
    """Whether the folder exists or can be made, takes files, and is ours alone (machine code is loaded from it)."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
    except OSError:
        return False


@lru_cache(maxsize=1)
def cache_dir() -> Path:
    """Folder for compiled kernels: $GGUFLIKE_CACHE_DIR, else the user's cache folder, else a temporary one."""
    base = os.environ.get("GGUFLIKE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"kernels-{sources_digest()}"
    candidates = (Path(base) / "gguflike" / name, Path(tempfile.gettempdir()) / f"gguflike-{user}-{name}")
    for folder in candidates:
        if _usable(folder):
            return folder
    raise OutputError(
        "no writable folder for compiled kernels",
        got=", ".join(map(str, candidates)),
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
        with Path("/proc/cpuinfo").open("rb", buffering=0) as file:  # one page is enough, and all CPUs may take long
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


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="gguflike")


def run_rows(kernel: Callable[..., Any], rows: int, *args: Any, threads: int | None = None, chunk: int = 0) -> None:
    """Call ``kernel(start, stop, *args)`` over disjoint row ranges that cover ``range(rows)``, on several threads.

    Ranges are small enough (``chunk`` rows; 8 per thread by default) that a thread held up by another process delays
    the others little. The result must not depend on the split: a kernel writes only to its own rows.
    """
    workers = min(thread_count(threads), max(rows, 1))
    step = chunk or max(1, -(-rows // (8 * workers)))
    if workers == 1 or step >= rows:
        kernel(0, rows, *args)
        return
    futures = [_pool(workers).submit(kernel, i, min(i + step, rows), *args) for i in range(0, rows, step)]
    for future in futures:
        future.result()
