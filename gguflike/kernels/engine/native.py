"""Compiled kernels as plain machine code: cached object files that are linked and called without importing numba.

Importing numba takes about 0.3 s and its own cache about 0.1 s a function, more than a small model needs to load. An
*op* therefore has one signature for all, ``op(args, state, start, stop)`` on 64-bit integers (the first two are
addresses of integer words), touches memory through addresses only, and never raises. Its machine code is an ordinary
object file that is mapped in 0.2 ms (objects.py, or where that does not do, LLVM's linker) and called by address.

An op is named ``"module:name"``: ``name`` was registered with ``@jit.op`` in ``gguflike.kernels.module``. That
module, and numba with it, is only imported when the machine code is not in the cache.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from gguflike.kernels.engine import objects
from gguflike.kernels.engine.host import cache_path, cpu
from gguflike.kernels.engine.store import digest, read, write
from gguflike.progress import Progress

OP_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

# What the code that would report an exception of an op calls. Ops never raise, so nothing of numba's runtime is needed.
_UNREACHABLE = (
    "NRT_Free",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)

_lock = threading.Lock()
_addresses: dict[str, int] = {}
_libraries: list[Any] = []  # code stays mapped as long as these live, which is as long as the process


@lru_cache(maxsize=1)
def _target() -> str:
    """A digest of what machine code depends on besides the sources: compiler version, CPU and its features."""
    # Numba takes an empty name for the plainest CPU there is, and none for this one.
    forced = [repr(os.environ.get(name)) for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    import llvmlite  # who makes programs to see what they need compiles nothing

    return digest("\0".join((f"llvmlite {llvmlite.__version__}", *forced, cpu() or _llvm_cpu())).encode())


def _llvm_cpu() -> str:
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def _object_path(name: str) -> str | None:
    return cache_path(f"{name.replace(':', '-')}-{_target()}.op")


@lru_cache(maxsize=1)
def _linker() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    # JITLink keeps what belongs together within reach. On AArch64 LLVM's older linker does not, and ends the process
    # when a section is more than 4 GiB from another.
    on_arm = machine.triple.startswith(("aarch64", "arm64"))
    return llvm.create_lljit_compiler(machine, use_jit_link=on_arm)


@lru_cache(maxsize=1)
def _process() -> ctypes.CDLL:
    return ctypes.CDLL("ucrtbase" if hasattr(ctypes, "WinDLL") else None)


@lru_cache(maxsize=256)
def _resolve(symbol: str) -> int:
    """Address of a function or datum of this process. AttributeError where it has none of that name."""
    found = getattr(_process(), "abort" if symbol in _UNREACHABLE else symbol)
    return int(ctypes.cast(found, ctypes.c_void_p).value or 0)


def _link(name: str, code: bytes) -> int:
    """Map an object file (symbol name, a zero byte, ELF or Mach-O image) and return the address of its function."""
    symbol, _, image = code.partition(b"\0")
    try:
        return objects.load(image, symbol.decode(), _resolve)
    except objects.Unsupported:
        return _link_by_llvm(name, symbol.decode(), image)


def _link_by_llvm(name: str, symbol: str, image: bytes) -> int:
    import llvmlite.binding as llvm

    builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process().export_symbol(symbol)
    for helper in _UNREACHABLE:
        builder.import_symbol(helper, _resolve(helper))
    library = builder.link(_linker(), f"gguflike:{name}")
    _libraries.append(library)
    return int(library[symbol])


def _compile(name: str) -> bytes:
    """Import the op's module, compile the op, and keep the machine code if there is a place for it."""
    from gguflike.kernels.engine import jit

    importlib.import_module(f"gguflike.kernels.{name.partition(':')[0]}")
    code = jit.compile_op(name)
    write(_object_path(name), code, name)
    return code


def _compile_all(names: Sequence[str], progress: Progress | None) -> None:
    """Compile ops and link them."""
    from gguflike.kernels.engine.workers import Task, compile_all

    def kept(task: Task) -> bool:
        return _link_kept(*task.args)

    def here(task: Task) -> None:
        (name,) = task.args
        _addresses[name] = _link(name, _compile(name))

    tasks = [Task(name.partition(":")[0], f"{__name__}:_compile", (name,)) for name in names]
    compile_all(tasks, here, kept, progress)


def _link_kept(name: str) -> bool:
    """Link an op from the cache; return whether it is there."""
    code = read(_object_path(name), name)
    if code is not None:
        _addresses[name] = _link(name, code)
    return code is not None


def load(names: Iterable[str], progress: Progress | None = None, beside: Iterable[str] = ()) -> dict[str, int]:
    """Addresses of the ops called ``names``; those not in the cache are compiled (about a second each).

    ``beside``: ops that may be needed later, which are compiled too where any have to be. ``progress(done, total,
    what)`` counts kernels while that goes on; ``what`` is COMPILING then.
    """
    wanted = list(dict.fromkeys(names))
    with _lock:
        missing = [name for name in wanted if name not in _addresses and not _link_kept(name)]
        if missing:
            missing += [name for name in beside if name not in _addresses and not _link_kept(name)]
            _compile_all(missing, progress)
        return {name: _addresses[name] for name in wanted}


@lru_cache(maxsize=256)
def call(name: str) -> Callable[[int, int, int, int], None]:
    """The op as a Python callable that releases the GIL while it runs."""
    return OP_TYPE(load([name])[name])
