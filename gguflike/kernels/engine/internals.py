"""The parts of numba that it does not promise to keep, each with what happens where they have changed.

Two things are built on them. ``kernel_cache`` keeps compiled kernels in files of our own (store.py), since numba
unpickles its index and its data as it finds them; without it, each process compiles them anew. ``helper_options`` makes
numba leave the optimization of helpers to the kernels that they become part of; without it, compiling takes half as
long again. Machine code and results are the same either way.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numba

from gguflike.kernels.engine.host import cache_path, sources_digest
from gguflike.kernels.engine.store import digest, read, write

_compiler: Any = importlib.import_module("numba.core.compiler")


class NotKept(Exception):
    """A kernel that ``only_kept`` was to load is not in the cache."""


_asked = threading.local()


@contextmanager
def only_kept() -> Iterator[None]:
    """Within it, kernels that are called on this thread raise NotKept rather than being compiled."""
    _asked.only_kept = True
    try:
        yield
    finally:
        _asked.only_kept = False


class KernelCache:
    """What one of numba's dispatchers keeps its machine code with: a file for each signature, CPU and numba.

    Where numba's interface has changed, nothing is found and nothing kept.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._py_func = function  # numba's name for it, which ``_index_key`` reads

    def _file(self, signature: Any, codegen: Any) -> tuple[str | None, str]:
        """Path and version of the file for a signature."""
        key = importlib.import_module("numba.core.caching").Cache._index_key(self, signature, codegen)
        version = f"{sys.implementation.cache_tag} numba {numba.__version__} {sources_digest()} {key!r}"
        function = self._py_func
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}".replace("<", "").replace(">", "")
        return cache_path(f"{name}-{digest(version.encode())}.kernel"), version

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return numba's result for a signature, or None where it is to be compiled."""
        target_context.refresh()
        try:
            data = read(*self._file(signature, target_context.codegen()))
            if data is not None:
                return _compiler.CompileResult._rebuild(target_context, *pickle.loads(data))
        except (ImportError, AttributeError, TypeError):
            pass
        if getattr(_asked, "only_kept", False):
            raise NotKept(self._py_func.__qualname__)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep numba's result, unless it holds addresses of this process."""
        try:
            if not result.lifted and not result.library.has_dynamic_globals:
                path, version = self._file(signature, result.codegen)
                write(path, importlib.import_module("numba.core.serialize").dumps(result._reduce()), version)
        except (ImportError, AttributeError, TypeError):
            pass

    def flush(self) -> None:
        """Numba's way to ask that kept files be forgotten. They are good as long as the sources are these."""


def helper_options() -> dict[str, Any]:
    """Return the options of ``numba.njit`` for a function that only kernels call."""
    compiler = _helper_compiler()
    if compiler is None:
        return {}
    return {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": compiler}


@lru_cache(maxsize=1)
def _helper_compiler() -> Any:
    """Numba's compiler with ``HelperLowering``, which helpers use if that works; None where numba has no such parts."""
    try:
        machinery: Any = importlib.import_module("numba.core.compiler_machinery")
        lowering: Any = importlib.import_module("numba.core.typed_passes").NativeLowering
        dynfunc: Any = importlib.import_module("numba._dynfunc")  # in C

        @machinery.register_pass(mutates_CFG=True, analysis_only=False)
        class HelperLowering(lowering):  # type: ignore[misc]
            """Leaves a helper's optimization and machine code to the kernels it becomes part of.

            Numba would do both for the helper as well, and for each helper that calls it: half of the time it takes to
            compile an encoder.
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
                entry = dynfunc.make_function(what.lookup_module(), what.qualname, what.doc, 0, helper.env, (library,))
                state.targetctx.insert_user_function(entry, what, [library])
                state["cr"] = helper._replace(cfunc=entry)
                return True

        class HelperCompiler(_compiler.CompilerBase):  # type: ignore[misc]
            def define_pipelines(self) -> list[Any]:
                pipeline = _compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
                pipeline.passes = [(HelperLowering if p is lowering else p, text) for p, text in pipeline.passes]
                pipeline._finalized = False
                pipeline.finalize()
                return [pipeline]

        class CheckedCompiler(HelperCompiler):
            def define_pipelines(self) -> list[Any]:
                if _works(HelperCompiler):
                    return super().define_pipelines()
                return [_compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)]

    except (ImportError, AttributeError, TypeError):
        return None
    return CheckedCompiler


@lru_cache(maxsize=1)
def _works(compiler: Any) -> bool:
    """Whether a kernel can be built from a helper compiled by ``compiler``, tried in a twentieth of a second."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": compiler}
    nopython: dict[str, Any] = {"nopython": True}
    try:
        helper: Any = numba.njit(**options)(lambda x: x + 40)
        kernel: Any = numba.cfunc("int64(int64)", **nopython)(lambda x: helper(x) + helper(1))
        return int(kernel.ctypes(-39)) == 42
    except Exception:  # numba's inner parts may fail in any way
        return False
