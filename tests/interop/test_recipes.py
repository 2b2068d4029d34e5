"""The type of every tensor, as llama-quantize itself chooses it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguflike.convert import convert, quantize_file
from gguflike.convert.recipe import RECIPES
from tests import tiny
from tests.imatrix_files import imatrix_gguf

# llama.cpp has no substitute for Q1_0 and refuses its ragged rows.
# MXFP4 is for experts only there, NVFP4 is none of its targets, Q2_0 is newer than the gguf package.
DIFFERENT = {"MXFP4", "NVFP4", "Q2_0"}
SLOW = {name for name in RECIPES if name.startswith(("IQ1", "IQ2", "IQ3_XX"))}  # ggml encodes them at 0.1 M weights/s
WIDE = {"Q4_K_S", "Q3_K_S", "Q3_K_M", "Q2_K"}  # have rules for models of 80 layers
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}
MODELS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "grouped": ({**SHAPE, "num_key_value_heads": 1, "num_hidden_layers": 9}, DIFFERENT),
    "tied": (
        {**SHAPE, "num_key_value_heads": 4, "num_hidden_layers": 9, "tie_word_embeddings": True},
        DIFFERENT | SLOW,
    ),
    "ragged": ({**SHAPE, "hidden_size": 96, "head_dim": 16, "num_hidden_layers": 8}, DIFFERENT | SLOW | {"Q1_0"}),
    "deep": ({**SHAPE, "num_key_value_heads": 1, "num_hidden_layers": 32}, DIFFERENT | SLOW),
    "wide": ({**SHAPE, "num_key_value_heads": 1, "num_hidden_layers": 80}, set(RECIPES) - WIDE),
}


_LOGGERS: list[object] = []  # llama.cpp keeps calling its logger for as long as the process lives


class LlamaQuantize:
    """llama_model_quantize through ctypes."""

    def __init__(self) -> None:
        import llama_cpp

        self.lib = llama_cpp
        silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        _LOGGERS.append(silence)

    def __call__(self, source: Path, target: Path, file_type: int, importance: dict[str, np.ndarray]) -> dict[str, str]:
        """Types by tensor name; ``importance`` by tensor name, empty for none."""
        params = self.lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, 2
        kind = self.lib.llama_cpp.llama_model_imatrix_data
        entries = (kind * (len(importance) + 1))()
        for i, (name, values) in enumerate(importance.items()):
            entries[i] = kind(name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
        if importance:
            params.imatrix = ctypes.cast(entries, ctypes.POINTER(kind))
        done = self.lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
        assert done == 0
        return {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}


@pytest.fixture(scope="module")
def llama_quantize() -> LlamaQuantize:
    return LlamaQuantize()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", MODELS)
def test_types_are_those_of_llama_quantize(model: str, llama_quantize: LlamaQuantize, tmp_path: Path) -> None:
    changes, left_out = MODELS[model]
    convert(tiny.checkpoint(tmp_path / "hf", **changes), tmp_path / "f32.gguf", "F32")
    shapes = {name: t.shape for name, t in tiny.gguf_tensors(tmp_path / "f32.gguf").items() if len(t.shape) == 2}
    ones = {name: np.ones(int(shape[0]), np.float32) for name, shape in shapes.items()}
    matrix = imatrix_gguf(
        tmp_path / "i.gguf", {n: x[None] for n, x in ones.items()}, {n: np.ones((1, 1)) for n in ones}
    )
    for name, recipe in RECIPES.items():
        if name in left_out:
            continue
        for given in [True] if recipe.wants_imatrix else [False, True]:
            want = llama_quantize(tmp_path / "f32.gguf", tmp_path / "q.gguf", recipe.file_type, ones if given else {})
            options = {"imatrix": matrix} if given else {}
            plan = quantize_file(tmp_path / "f32.gguf", None, name, dry_run=True, **options)
            ours = {t.name: t.format.name for t in plan.tensors}
            for tensor in plan.substitutions:  # the one deliberate difference: the same size with less error
                if tensor.wanted.name in ("Q2_K", "Q3_K") and want[tensor.name] == "Q4_0":
                    assert ours[tensor.name] == "IQ4_NL"
                    want[tensor.name] = "IQ4_NL"
            assert ours == want, (name, given)
