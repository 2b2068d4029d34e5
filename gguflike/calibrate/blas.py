"""numpy's matrix products on one thread each.

Who works on many matrices or rows at once has a thread for each of them, and threads of BLAS beside those would only be
in the way. What is more, a product that BLAS spreads over threads differs in its last bits with their number: codes
that are chosen by such sums would depend on the machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_NAMES = ("scipy_openblas_{}64_", "openblas_{}64_", "scipy_openblas_{}", "openblas_{}")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Within it, OpenBLAS (which numpy's wheels carry) computes each product on the thread that asks for it.

    It holds for the whole process. A numpy that was built with another library is left alone.
    """
    found = _functions()
    if found is None:
        yield
        return
    get, set_ = found
    before = get()
    set_(1)
    try:
        yield
    finally:
        set_(before)


@cache
def _functions() -> tuple[Any, Any] | None:
    """OpenBLAS's ``get_num_threads`` and ``set_num_threads``, looked up in what numpy has loaded."""
    try:
        from numpy._core import _multiarray_umath as loaded  # type: ignore[attr-defined]
    except ImportError:  # numpy 1
        from numpy.core import _multiarray_umath as loaded
    library = ctypes.CDLL(loaded.__file__)
    for name in _NAMES:
        get, set_ = (getattr(library, name.format(what), None) for what in ("get_num_threads", "set_num_threads"))
        if get is not None and set_ is not None:
            return get, set_
    return None
