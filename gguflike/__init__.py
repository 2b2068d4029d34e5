"""gguflike: a Hugging Face checkpoint in, a small, trustworthy, fast GGUF out.

    f = gguflike.open("model.gguf")              header only; .metadata, .tensors, .architecture
    t = f.tensors["blk.0.attn_q.weight"]         .shape, .format, .dequantize(), .linear(x)
    q = gguflike.quantize(array, "Q4_K", name="x")    a QuantizedTensor
    gguflike.write("out.gguf", metadata, [q])    atomic
    gguflike.convert("folder", "out.gguf", type="Q4_K_M")
    m = gguflike.load("out.gguf")                .tokenize, .logits, .generate, .embed

Each name is imported on first use, so that ``import gguflike`` costs nothing and looking into a file never loads a
compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.calibration import calibrate, calibrate_activations
    from gguflike.container import GGUFFile, write
    from gguflike.convert import convert, export, merge, quantize_file, split
    from gguflike.diff import diff
    from gguflike.edit import edit
    from gguflike.errors import (
        ArgumentError,
        ArgumentTypeError,
        ChangedError,
        CheckpointError,
        DigestError,
        GGUFError,
        GGUFLikeError,
        OutputError,
        QuantizationError,
        RemoteError,
        TemplateError,
        UnsupportedError,
    )
    from gguflike.estimate import estimate
    from gguflike.evaluate import Card, evaluate
    from gguflike.inspect import describe
    from gguflike.locate import open
    from gguflike.runner import Model, load
    from gguflike.tensor import QuantizedTensor, quantize
    from gguflike.tuning import tune
    from gguflike.upload import upload
    from gguflike.verify import verify

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "Card",
    "ChangedError",
    "CheckpointError",
    "DigestError",
    "GGUFError",
    "GGUFFile",
    "GGUFLikeError",
    "Model",
    "OutputError",
    "QuantizationError",
    "QuantizedTensor",
    "RemoteError",
    "TemplateError",
    "UnsupportedError",
    "__version__",
    "calibrate",
    "calibrate_activations",
    "convert",
    "describe",
    "diff",
    "edit",
    "estimate",
    "evaluate",
    "export",
    "load",
    "merge",
    "open",
    "quantize",
    "quantize_file",
    "split",
    "tune",
    "upload",
    "verify",
    "write",
]

__getattr__ = lazy.names(
    __name__,
    {
        "ArgumentError": "errors",
        "ArgumentTypeError": "errors",
        "Card": "evaluate",
        "ChangedError": "errors",
        "CheckpointError": "errors",
        "DigestError": "errors",
        "GGUFError": "errors",
        "GGUFFile": "container",
        "GGUFLikeError": "errors",
        "Model": "runner",
        "OutputError": "errors",
        "QuantizationError": "errors",
        "QuantizedTensor": "tensor",
        "RemoteError": "errors",
        "TemplateError": "errors",
        "UnsupportedError": "errors",
        "calibrate": "calibration",
        "calibrate_activations": "calibration",
        "convert": "convert",
        "describe": "inspect",
        "diff": "diff",
        "edit": "edit",
        "estimate": "estimate",
        "evaluate": "evaluate",
        "export": "convert",
        "load": "runner",
        "merge": "convert",
        "open": "locate",
        "quantize": "tensor",
        "quantize_file": "convert",
        "split": "convert",
        "tune": "tuning",
        "upload": "upload",
        "verify": "verify",
        "write": "container",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
