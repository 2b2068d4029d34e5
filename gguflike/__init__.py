"""gguflike: a Hugging Face checkpoint in, a small, trustworthy, fast GGUF out.

    f = gguflike.open("model.gguf")              header only; .metadata, .tensors, .architecture
    t = f.tensors["blk.0.attn_q.weight"]         .shape, .format, .dequantize(), .linear(x)
    q = gguflike.quantize(array, "Q4_K")         a QuantizedTensor
    gguflike.write("out.gguf", metadata, [q])    atomic
    gguflike.convert("folder", "out.gguf", type="Q4_K_M")
    m = gguflike.load("out.gguf")                .tokenize, .logits, .generate

Each name is imported on first use, so that ``import gguflike`` costs nothing and looking into a file never loads a
compiler.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguflike.container import GGUFFile, open, write
    from gguflike.convert import convert, export, quantize_file
    from gguflike.describe import describe
    from gguflike.diff import diff
    from gguflike.errors import (
        CheckpointError,
        DigestError,
        GGUFError,
        GGUFLikeError,
        OutputError,
        QuantizationError,
        TemplateError,
        UnsupportedError,
    )
    from gguflike.runner import Model, load
    from gguflike.tensor import QuantizedTensor, quantize
    from gguflike.verify import verify

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "DigestError",
    "GGUFError",
    "GGUFFile",
    "GGUFLikeError",
    "Model",
    "OutputError",
    "QuantizationError",
    "QuantizedTensor",
    "TemplateError",
    "UnsupportedError",
    "__version__",
    "convert",
    "describe",
    "diff",
    "export",
    "load",
    "open",
    "quantize",
    "quantize_file",
    "verify",
    "write",
]

_HOME = {
    "GGUFFile": "container",
    "Model": "runner",
    "QuantizedTensor": "tensor",
    "convert": "convert",
    "describe": "describe",
    "diff": "diff",
    "export": "convert",
    "load": "runner",
    "open": "container",
    "quantize": "tensor",
    "quantize_file": "convert",
    "verify": "verify",
    "write": "container",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gguflike' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gguflike.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``gguflike.convert`` and its like callable: importing the submodule of that name must not replace it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
