"""The one module that owns numba: compiler flags and the on-disk cache.

Kernels are compiled with ``@jit`` (no Python objects, no GIL). The machine code is cached in a folder whose name holds
a digest of every source file of this package: numba itself only looks at the file a function stands in, so editing a
helper in another file would otherwise leave stale code behind.

Ops (``@op``) are the kernels of the runner: compiled here, cached and linked by native.py without numba.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numba.core.compiler
import numba.core.compiler_machinery
import numba.core.typed_passes
import numba.extending
from llvmlite import ir as ir
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from gguflike.kernels.engine.host import cache_dir as cache_dir
from gguflike.kernels.engine.host import sources_digest as sources_digest

F = TypeVar("F", bound=Callable[..., Any])

# For the few kernel modules that emit LLVM themselves; untyped, since numba's types do not survive decoration.
types: Any = numba.types
intrinsic: Any = numba.extending.intrinsic
overload: Any = numba.extending.overload
register_model: Any = numba.extending.register_model
PrimitiveModel: Any = numba.extending.models.PrimitiveModel
# And for what stands in for parts of numba's compiler.
_compiler: Any = numba.core.compiler
_machinery: Any = numba.core.compiler_machinery
_lowering: Any = numba.core.typed_passes.NativeLowering
_dynfunc: Any = importlib.import_module("numba._dynfunc")  # in C


class _Locator(_CacheLocator):
    """Puts every kernel's index and code into ``cache_dir()``."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return cache_dir()

    def get_source_stamp(self) -> str:
        return sources_digest()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:  # noqa: ARG003  # numba's signature
        return cls(py_func)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012  # numba declares it so


class _KernelCache(FunctionCache):
    _impl_class = _CacheImpl


def jit(function: F | None = None, **options: Any) -> Any:
    """Compile a kernel: nopython, GIL-free, C division and index semantics, cached on disk.

    No fast-math: decoding is bit for bit, and NaN must stay visible. A kernel that may reorder sums says so itself
    with ``fastmath={"reassoc", ...}`` (never "nnan" or "ninf").
    """
    if function is None:
        return lambda f: jit(f, **options)
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False} | options
    dispatcher: Any = numba.njit(**settings)(function)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and settings.get("inline") != "always":
        dispatcher._cache = cast("Any", _KernelCache)(dispatcher.py_func)
    return cast("F", dispatcher)


@_machinery.register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(_lowering):  # type: ignore[misc]
    """Leaves a helper's optimization and machine code to the kernels it becomes part of.

    Numba would do both for the helper as well, and for each helper that calls it: half of the time it takes to compile
    an encoder.
    """

    def run_pass(self, state: Any) -> bool:
        library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
        library._optimize_final_module = lambda: None
        library._finalize_final_module = lambda: setattr(library, "_finalized", True)
        state.library = library
        state.flags.no_compile = True
        super().run_pass(state)
        helper = state["cr"]
        what = helper.fndesc
        # What numba knows a compiled function by. It has no code to call.
        entry = _dynfunc.make_function(what.lookup_module(), what.qualname, what.doc, 0, helper.env, (library,))
        state.targetctx.insert_user_function(entry, what, [library])
        state["cr"] = helper._replace(cfunc=entry)
        return True


class _HelperCompiler(_compiler.CompilerBase):  # type: ignore[misc]
    """Numba's compiler with ``_HelperLowering``."""

    def define_pipelines(self) -> list[Any]:
        pipeline = _compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [(_HelperLowering if p is _lowering else p, text) for p, text in pipeline.passes]
        pipeline._finalized = False
        pipeline.finalize()
        return [pipeline]


def inner(function: F | None = None, **options: Any) -> Any:
    """Compile a helper that only kernels call: as ``jit``, without an entry for Python or a file in the cache.

    A kernel that is built from thirty small functions compiles in two thirds of the time when these are inner.
    """
    if function is None:
        return lambda f: inner(f, **options)
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    settings |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _HelperCompiler} | options
    return cast("F", numba.njit(**settings)(function))


def lean(function: F | None = None, **options: Any) -> Any:
    """Compile a helper as ``inner`` does, without reference counts: for one that makes no array of its own.

    Counting the arrays that small functions hand to each other took a tenth of the time of the lattice encoders, and up
    to half of that of the scalar ones. With ``forceinline=True`` it becomes part of its callers: for one that few call,
    with many arrays or tuples, which a call passes field by field through memory.
    """
    return inner(function, _nrt=False, **options)


OPS: dict[str, Callable[..., Any]] = {}


def op(name: str) -> Callable[[F], F]:
    """Decorator: registers ``function(args, state, start, stop)``, all int64, as op ``"module:name"`` (native.py)."""

    def add(function: F) -> F:
        OPS[name] = function
        return function

    return add


def compile_op(name: str) -> bytes:
    """Machine code of a registered op: the name of its C function, a zero byte, and a relocatable object file.

    The object is complete in itself: kernels called with ``@jit`` are linked into it, and only symbols of libc and
    libm stay open. The op must not allocate arrays or raise (there is no Python to raise into).
    """
    options: dict[str, Any] = {"nopython": True, "error_model": "numpy", "boundscheck": False}
    compiled: Any = numba.cfunc("void(int64, int64, int64, int64)", **options)(OPS[name])
    return bytes(compiled.native_name.encode() + b"\0" + compiled._library._get_compiled_object())
