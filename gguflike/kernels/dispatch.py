"""Which kernel serves which block type and operation. Importing this module does not import numba.

A kernel module registers its functions with ``@register(op, *names)``; ``MODULES`` says which modules to load for an
operation. The signatures, all on C-contiguous arrays:

    decode   (blocks uint8 (rows, row_bytes), out float32 (rows, columns), threads) -> None
    encode   (x float32 (rows, columns), out uint8 (rows, row_bytes), weights float32 (columns,) | None,
              method, threads) -> None
    linear   see kernels/linear.py
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from gguflike.blocks import BlockFormat
from gguflike.errors import UnsupportedError

MODULES: dict[str, tuple[str, ...]] = {
    "decode": ("decode",),
    "encode": ("encode",),
    "linear": ("matmul.linear",),
}

_REGISTRY: dict[tuple[str, str], Callable[..., Any]] = {}
_LOADED: set[str] = set()


def register(op: str, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function serves operation ``op`` for the block types ``names``."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _REGISTRY[op, name] = function
        return function

    return add


def _load(op: str) -> None:
    if op not in _LOADED:
        for module in MODULES[op]:
            importlib.import_module(f"gguflike.kernels.{module}")
        _LOADED.add(op)


def has(op: str, fmt: BlockFormat) -> bool:
    """Whether ``op`` is available for the block type."""
    _load(op)
    return (op, fmt.name) in _REGISTRY


def get(op: str, fmt: BlockFormat) -> Callable[..., Any]:
    """The kernel for ``op`` on the block type. UnsupportedError where there is none."""
    _load(op)
    function = _REGISTRY.get((op, fmt.name))
    if function is None:
        known = sorted(name for o, name in _REGISTRY if o == op)
        raise UnsupportedError(f"no {op} kernel for {fmt.name}", expected="one of " + ", ".join(known), got=fmt.name)
    return function
