"""The one module that owns numba: compiler flags, the on-disk cache, and threads.

Kernels are compiled with ``@jit`` (no Python objects, no GIL). The machine code is cached in a folder whose name holds
a digest of every source file of this package: numba itself only looks at the file a function stands in, so editing a
helper in another file would otherwise leave stale code behind.

Threads are plain Python threads that run GIL-free kernels on disjoint row ranges. OpenMP teams spin while they wait,
and two of them on two busy cores were measured 7x slower than one thread; these sleep.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.extending
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

F = TypeVar("F", bound=Callable[..., Any])

# For the few kernel modules that emit LLVM themselves (half.py); untyped, since numba's types do not survive decoration.
types: Any = numba.types
intrinsic: Any = numba.extending.intrinsic
overload: Any = numba.extending.overload


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """First 16 hex digits of the SHA-256 over every source file of ``gguflike.kernels``, names included."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def cache_dir() -> Path:
    """Folder for compiled kernels: $GGUFLIKE_CACHE_DIR, else the user's cache folder, else a temporary one."""
    base = os.environ.get("GGUFLIKE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for root in (Path(base) / "gguflike", Path(tempfile.gettempdir()) / f"gguflike-{os.getuid() if hasattr(os, 'getuid') else 0}"):
        folder = root / f"kernels-{sources_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise RuntimeError("no writable folder for compiled kernels; set GGUFLIKE_CACHE_DIR")


class _Locator(_CacheLocator):  # type: ignore[misc]  # numba ships no types
    """Puts every kernel's index and code into ``cache_dir()``."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_dir())

    def get_source_stamp(self) -> str:
        return sources_digest()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]


class _KernelCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl


def jit(function: F | None = None, **options: Any) -> Any:
    """Compile a kernel: nopython, GIL-free, C division and index semantics, cached on disk.

    No fast-math: decoding is bit for bit, and NaN must stay visible. A kernel that may reorder sums says so itself
    with ``fastmath={"reassoc", ...}`` (never "nnan" or "ninf").
    """
    if function is None:
        return lambda f: jit(f, **options)
    settings = {"nogil": True, "error_model": "numpy", "boundscheck": False} | options
    dispatcher = numba.njit(**settings)(function)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and settings.get("inline") != "always":
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    return cast(F, dispatcher)


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
