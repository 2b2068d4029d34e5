"""llama.cpp's multi-token-prediction heads as a process of its own, which it may abort. See processes.py for what goes
to and fro."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_cpp import _lib as lib
from processes import answer

_F32, _OF_HEADS, _DECODE = 0, 1, 1  # of a cache, a context and a pass
_log = llama_cpp.llama_log_callback(lambda *_: None)


class _Rows(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("rows", ctypes.c_size_t), ("columns", ctypes.c_size_t))


_pointer, _int = ctypes.c_void_p, ctypes.c_int32
for name, result, arguments in (
    ("llama_batch_ext_init", _pointer, [_pointer]),
    ("llama_batch_ext_add_token", _int, [_pointer, _int, _int]),
    ("llama_batch_ext_set_embd_token", ctypes.c_bool, [_pointer, _int, _Rows]),
    ("llama_batch_ext_set_pos", ctypes.c_bool, [_pointer, _int, ctypes.POINTER(_int)]),
    ("llama_batch_ext_set_output_logits", ctypes.c_bool, [_pointer, _int, ctypes.c_bool]),
    ("llama_process", _int, [_pointer, _int, _pointer]),
    ("_Z28llama_set_nextn_layer_offsetP13llama_contexti", None, [_pointer, _int]),
):
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Write to "out" the logits (tokens, vocabulary) of head "number" of the file "path" for "ids", each with its row
    of the array "before" (tokens, width)."""
    before = np.ascontiguousarray(np.load(request["before"]), np.float32)
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers, parameters.load_mtp = 0, True
    model = llama_cpp.llama_model_load_from_file(request["path"].encode(), parameters)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 128
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = _F32
    settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to float16
    settings.ctx_type = _OF_HEADS
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        return {"error": "no context"}
    place = ctypes.cast(context, _pointer)
    lib._Z28llama_set_nextn_layer_offsetP13llama_contexti(place, request["number"])
    batch = lib.llama_batch_ext_init(place)
    for i, token in enumerate(request["ids"]):
        index = lib.llama_batch_ext_add_token(batch, 0, token)
        lib.llama_batch_ext_set_pos(batch, index, (_int * 4)(i, 0, 0, 0))
        lib.llama_batch_ext_set_embd_token(batch, index, _Rows(before[i].ctypes.data, 1, before.shape[1]))
        lib.llama_batch_ext_set_output_logits(batch, index, True)
    status = lib.llama_process(place, _DECODE, batch)
    if status != 0:
        return {"error": f"llama_process gave {status}"}
    width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = (llama_cpp.llama_get_logits_ith(context, i) for i in range(len(before)))
    kind = ctypes.POINTER(ctypes.c_float)
    np.save(request["out"], np.stack([np.ctypeslib.as_array(ctypes.cast(row, kind), (width,)).copy() for row in rows]))
    return {}


if __name__ == "__main__":
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    answer(run)
