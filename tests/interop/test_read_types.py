"""Of which types llama.cpp reads keys, by what it refuses, against what verify says of the same files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.container import Typed, ValueType
from gguflike.verify import types
from tests import tiny

pytestmark = pytest.mark.interop
llama_cpp = pytest.importorskip("llama_cpp")
if sys.platform == "win32":
    pytest.skip("needs processes that fork", allow_module_level=True)

U32, F32, BOOL, STRING = ValueType.UINT32, ValueType.FLOAT32, ValueType.BOOL, ValueType.STRING
KEYS = {
    U32: "general.file_type llama.context_length llama.embedding_length llama.block_count llama.vocab_size "
    "llama.feed_forward_length llama.attention.head_count llama.attention.head_count_kv llama.attention.key_length "
    "llama.attention.value_length llama.expert_count llama.expert_used_count llama.expert_group_count "
    "llama.rope.dimension_count llama.rope.scaling.original_context_length llama.pooling_type "
    "llama.nextn_predict_layers tokenizer.ggml.bos_token_id tokenizer.ggml.eot_token_id "
    "tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id tokenizer.ggml.padding_token_id "
    "tokenizer.ggml.mask_token_id tokenizer.ggml.fim_pad_token_id tokenizer.ggml.token_type_count",
    F32: "llama.attention.layer_norm_rms_epsilon llama.rope.freq_base llama.rope.scaling.factor "
    "llama.rope.scale_linear llama.rope.scaling.attn_factor",
    BOOL: "llama.attention.causal llama.rope.scaling.finetuned tokenizer.ggml.add_bos_token "
    "tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix "
    "tokenizer.ggml.remove_extra_whitespaces",
    STRING: "general.name llama.rope.scaling.type tokenizer.ggml.model tokenizer.ggml.pre",
}
OTHERS: dict[ValueType, dict[ValueType, Any]] = {
    U32: {ValueType.INT32: 2, ValueType.UINT64: 2, F32: 2.0, STRING: "2"},
    F32: {ValueType.FLOAT64: 1.0, U32: 1, STRING: "1"},
    BOOL: {ValueType.UINT8: 1, STRING: "true"},
    STRING: {U32: 1},
}
#: What it takes of any type, or does not read.
FREE = ("general.quantization_version", "general.type", "general.sampling.temp", "tokenizer.chat_template")


def loads(path: Path) -> bool:
    """Whether llama.cpp takes a file, in a process of its own."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            llama_cpp.Llama(str(path), verbose=False, n_ctx=32, n_threads=1)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_what_llama_cpp_refuses_is_said(tmp_path: Path) -> None:
    gguflike.convert(tiny.checkpoint(tmp_path / "ck"), tmp_path / "m.gguf", "F32")
    path = tmp_path / "changed.gguf"
    with gguflike.open(tmp_path / "m.gguf") as file:
        whole = {key: value for key, value in file.metadata.typed_dict().items() if not key.startswith("gguflike.")}
        tensors = list(file.tensors.values())

        def judged(changes: dict[str, Any], without: str = "") -> tuple[bool, list[str]]:
            metadata = {**{key: value for key, value in whole.items() if key != without}, **changes}
            gguflike.write(path, metadata, tensors)
            with gguflike.open(path) as made:
                return loads(path), [key for key, _ in types.refused(made)]

        assert judged({}) == (True, [])
        assert judged({}, "llama.context_length") == (False, ["llama.context_length"])
        for wanted, names in KEYS.items():
            for key in names.split():
                for kind, value in OTHERS[wanted].items():
                    said = [] if key == "llama.block_count" and kind in (F32, STRING) else [key]  # of which M-010 tells
                    assert judged({key: Typed(value, kind)}) == (False, said), (key, kind)
        for key in FREE:
            assert judged({key: Typed(1, ValueType.UINT8)}) == (True, []), key
        heads = "llama.attention.head_count"
        for count, item in ((1, U32), (3, U32), (2, ValueType.INT64)):
            assert judged({heads: Typed([4] * count, ValueType.ARRAY, item)}) == (False, [heads])
        for item in (U32, ValueType.INT32):
            assert judged({heads: Typed([4, 4], ValueType.ARRAY, item)}) == (True, [])
        assert judged({"split.count": Typed(1, U32)}) == (False, ["split.count"])
        assert judged({"split.count": Typed(1, ValueType.UINT16)}) == (True, [])
