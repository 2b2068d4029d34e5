"""How kernels are compiled: the decorators, the compiler's settings, and the registry of ops.

Kernels are compiled with ``@jit`` (no Python objects, no GIL). The machine code is kept in a folder whose name holds
a digest of every source file of this package: numba itself only looks at the file a function stands in, so editing a
helper in another file would otherwise leave stale code behind.

Ops (``@op``) are the kernels of the runner: compiled here, kept and linked by native.py without numba.

This module and internals.py own numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numba.extending
from llvmlite import ir as ir

from gguflike.errors import UnsupportedError
from gguflike.kernels.engine.internals import KernelCache, helper_options

F = TypeVar("F", bound=Callable[..., Any])

# For the few kernel modules that emit LLVM themselves; untyped, since numba's types do not survive decoration.
types: Any = numba.types
intrinsic: Any = numba.extending.intrinsic
overload: Any = numba.extending.overload
register_model: Any = numba.extending.register_model
PrimitiveModel: Any = numba.extending.models.PrimitiveModel
typeof: Any = numba.typeof

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise UnsupportedError(
        "kernels are machine code, and numba is told not to make any",
        field="NUMBA_DISABLE_JIT",
        expected="0",
        got=_config.DISABLE_JIT,
        remedy="unset the variable where gguflike converts or runs models",
    )

_SETTINGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def jit(function: F | None = None, **options: Any) -> Any:
    """Compile a kernel: nopython, GIL-free, C division and index semantics, kept on disk.

    No fast-math: decoding is bit for bit, and NaN must stay visible. A kernel that may reorder sums says so itself
    with ``fastmath={"reassoc", ...}`` (never "nnan" or "ninf").
    """
    if function is None:
        return lambda f: jit(f, **options)
    dispatcher: Any = numba.njit(**_SETTINGS | options)(function)
    if options.get("inline") != "always":
        dispatcher._cache = KernelCache(dispatcher.py_func)
    return cast("F", dispatcher)


def inner(function: F | None = None, **options: Any) -> Any:
    """Compile a helper that only kernels call: as ``jit``, without an entry for Python or a file in the cache.

    A kernel that is built from thirty small functions compiles in two thirds of the time when these are inner.
    """
    if function is None:
        return lambda f: inner(f, **options)
    return cast("F", numba.njit(**_SETTINGS | helper_options() | options)(function))


def lean(function: F | None = None, **options: Any) -> Any:
    """Compile a helper as ``inner`` does, without reference counts: for one that makes no array of its own.

    Counting the arrays that small functions hand to each other took a tenth of the time of the lattice encoders, and up
    to half of that of the scalar ones. With ``forceinline=True`` it becomes part of its callers: for one that few call,
    with many arrays or tuples, which a call passes field by field through memory.
    """
    return inner(function, _nrt=False, **options)


OPS: dict[str, Callable[..., Any]] = {}
_compiled: dict[Callable[..., Any], bytes] = {}


def op(name: str) -> Callable[[F], F]:
    """Decorator: registers ``function(args, state, start, stop)``, all int64, as op ``"module:name"`` (native.py)."""

    def add(function: F) -> F:
        OPS[name] = function
        return function

    return add


def compile_op(name: str) -> bytes:
    """Machine code of a registered op: the name of its C function, a zero byte, and a relocatable object file.

    The object is complete in itself: kernels called with ``@jit`` are linked into it, and only symbols of libc and
    libm stay open. The op must not allocate arrays or raise (there is no Python to raise into). One function may be
    several ops: it is compiled once. RuntimeError for code that would not be right in another process.
    """
    function = OPS[name]
    if function not in _compiled:
        options: dict[str, Any] = {"nopython": True, "error_model": "numpy", "boundscheck": False, "_nrt": False}
        compiled: Any = numba.cfunc("void(int64, int64, int64, int64)", **options)(function)
        if compiled._library.has_dynamic_globals:
            raise RuntimeError(f"{name} holds an address of this process: of an array that is not contiguous, or large")
        _compiled[function] = compiled.native_name.encode() + b"\0" + bytes(compiled._library._get_compiled_object())
    return _compiled[function]
