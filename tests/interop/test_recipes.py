"""The type of every tensor, as llama-quantize itself chooses it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
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

    def __call__(
        self,
        source: Path,
        target: Path,
        file_type: int,
        importance: dict[str, np.ndarray],
        tensor_types: dict[str, str] | None = None,
        pruned: tuple[int, ...] = (),
        **options: Any,
    ) -> dict[str, str]:
        """Types by tensor name; ``importance`` by tensor name, empty for none. ``options`` are further parameters."""
        params = self.lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, 2
        for name, value in options.items():
            assert hasattr(params, name)
            setattr(params, name, value)
        if tensor_types:
            override = self.lib.llama_cpp.llama_model_tensor_override
            rules = (override * (len(tensor_types) + 1))()
            for i, (pattern, kind) in enumerate(tensor_types.items()):
                rules[i] = override(pattern.encode(), gguf.GGMLQuantizationType[kind].value)
            rules[len(tensor_types)] = override(None, 0)
            params.tt_overrides = ctypes.cast(rules, ctypes.POINTER(override))
        if pruned:
            layers = (ctypes.c_int32 * (len(pruned) + 1))(*pruned, -1)
            params.prune_layers = ctypes.cast(layers, ctypes.POINTER(ctypes.c_int32))
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


def number(kind: str) -> int:
    return gguf.GGMLQuantizationType[kind].value


# Ours, and what llama-quantize makes of the same flags.
FLAGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pure": ({"pure": True}, {"pure": True}),
    "output": ({"output_tensor_type": "q5_0"}, {"output_tensor_type": number("Q5_0")}),
    "embedding": ({"token_embedding_type": "q8_0"}, {"token_embedding_type": number("Q8_0")}),
    "both, pure": (
        {"output_tensor_type": "q5_0", "token_embedding_type": "q8_0", "pure": True},
        {"output_tensor_type": number("Q5_0"), "token_embedding_type": number("Q8_0"), "pure": True},
    ),
    "output, pure": (
        {"output_tensor_type": "q5_0", "pure": True},
        {"output_tensor_type": number("Q5_0"), "pure": True},
    ),
    "left": ({"leave_output_tensor": True}, {"quantize_output_tensor": False}),
    "named": (
        {"tensor_types": ["attn_v=q8_0", "ffn_(up|gate)=q4_1", "output=q3_k", "embd=q5_k"]},
        {"tensor_types": {"attn_v": "Q8_0", "ffn_(up|gate)": "Q4_1", "output": "Q3_K", "embd": "Q5_K"}},
    ),
    "named and both": (
        {"tensor_types": ["output=q3_k", "embd=q5_k"], "output_tensor_type": "q5_0", "token_embedding_type": "q8_0"},
        {
            "tensor_types": {"output": "Q3_K", "embd": "Q5_K"},
            **{"output_tensor_type": number("Q5_0"), "token_embedding_type": number("Q8_0")},
        },
    ),
    "named, pure": (
        {"tensor_types": ["attn_v=q8_0"], "pure": True},
        {"tensor_types": {"attn_v": "Q8_0"}, "pure": True},
    ),
    "pruned": ({"prune_layers": [0, 3, 4, 8]}, {"pruned": (0, 3, 4, 8)}),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_flags_mean_what_they_mean_to_llama_quantize(tied: bool, llama_quantize: LlamaQuantize, tmp_path: Path) -> None:
    changes = {**SHAPE, "num_key_value_heads": 4, "num_hidden_layers": 17, "tie_word_embeddings": tied}
    convert(tiny.checkpoint(tmp_path / "hf", **changes), tmp_path / "f32.gguf", "F32")
    for flags, (ours, theirs) in FLAGS.items():
        for name in ("Q4_K_M", "Q2_K", "Q4_0", "MXFP4_MOE"):
            want = llama_quantize(tmp_path / "f32.gguf", tmp_path / "q.gguf", RECIPES[name].file_type, {}, **theirs)
            plan = quantize_file(tmp_path / "f32.gguf", None, name, dry_run=True, **ours)
            assert {t.name: t.format.name for t in plan.tensors} == want, (flags, name)
    quantize_file(tmp_path / "f32.gguf", tmp_path / "o.gguf", name, **ours)  # the last ones leave layers out
    with gguflike.open(tmp_path / "o.gguf") as file, gguflike.open(tmp_path / "q.gguf") as other:
        assert file.metadata["llama.block_count"] == other.metadata["llama.block_count"] == 13
        kept = [t for t in file.tensors.values() if t.format.name == "F32"]
        assert len(kept) == 2 * 13 + 1
        assert all(bytes(t.data) == bytes(other.tensors[t.name].data) for t in kept)


def test_the_same_shards_are_kept(llama_quantize: LlamaQuantize, tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf", **SHAPE), tmp_path / "f.gguf", "F32", split_max_tensors=8)
    source = next(tmp_path.glob("f-00001-*.gguf"))
    params = {"keep_split": True}
    with pytest.raises(FileNotFoundError):  # the shards' names are made of the target's
        llama_quantize(source, tmp_path / "theirs", RECIPES["Q8_0"].file_type, {}, **params)
    plan = quantize_file(source, tmp_path / "ours.gguf", "Q8_0", keep_split=True)
    assert len(plan.paths) == len(list(tmp_path.glob("theirs-*.gguf"))) > 2
    for path in map(Path, plan.paths):
        other = gguf.GGUFReader(path.with_name(path.name.replace("ours", "theirs")))
        mine = gguf.GGUFReader(path)
        assert [(t.name, t.tensor_type) for t in mine.tensors] == [(t.name, t.tensor_type) for t in other.tensors]
