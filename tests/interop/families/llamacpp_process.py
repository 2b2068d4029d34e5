"""llama.cpp as a process of its own, which it may abort. See processes.py for what goes to and fro."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from processes import answer

_POOLING = {"mean": 1, "cls": 2, "last": 3, "rank": 4, "none": 0}
_F32 = 0
_errors: list[str] = []


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, data: Any) -> None:
    if level >= 4:  # GGML_LOG_LEVEL_ERROR
        _errors.append(text.decode(errors="replace").strip())


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Write to "out" the logits of "ids", (tokens, vocabulary), by the file "path"; or with "pooling", embeddings:
    (tokens, width) for "none", else (1, width).

    Keys and values are kept in float32, and all tokens are one batch.
    """
    _errors.clear()
    ids, pooling = request["ids"], request.get("pooling")
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(request["path"].encode(), parameters)
    if not model:
        return {"error": "; ".join(_errors[:2]) or "not loaded"}
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(128, len(ids))
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = _F32
    settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to float16
    if pooling is not None:
        settings.embeddings = True
        settings.pooling_type = _POOLING[pooling]
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        return {"error": "; ".join(_errors[:2]) or "no context"}
    try:
        np.save(request["out"], _computed(model, context, ids, pooling))
    except RuntimeError as error:
        return {"error": f"{error}: {'; '.join(_errors[:2])}"}
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    return {}


def _computed(model: Any, context: Any, ids: list[int], pooling: str | None) -> np.ndarray:
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = True
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if status != 0:
        raise RuntimeError(f"llama_decode gave {status}")
    if pooling in ("mean", "cls", "last", "rank"):
        width = llama_cpp.llama_model_n_cls_out(model) if pooling == "rank" else llama_cpp.llama_model_n_embd(model)
        return _array(llama_cpp.llama_get_embeddings_seq(context, 0), width)[None]
    if pooling == "none":
        width = llama_cpp.llama_model_n_embd(model)
        return np.stack([_array(llama_cpp.llama_get_embeddings_ith(context, i), width) for i in range(len(ids))])
    width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return np.stack([_array(llama_cpp.llama_get_logits_ith(context, i), width) for i in range(len(ids))])


def _array(pointer: Any, count: int) -> np.ndarray:
    if not pointer:
        raise RuntimeError("no result")
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (count,)).copy()


if __name__ == "__main__":
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    answer(run)
