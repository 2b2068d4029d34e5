"""Models of any graph, without a family: files of seeded random weights, run and compared with the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from gguflike import reference
from gguflike.families import registry
from gguflike.families.config import key
from gguflike.families.family import Family
from gguflike.families.parts import Attention, Branch, Embedding, FeedForward, Graph, Head, Norm, Rope
from gguflike.frozen import frozen
from gguflike.runner import Model
from tests import tiny_gguf

TOKENS, WIDTH, CONTEXT = 300, 64, 96
IDS = [5, 17, 256, 99, 3, 250, 42, 42, 7, 128, 0, 299, 64, 31]


@frozen
class Sizes:
    """What a model is asked for beside its graph."""

    n_layer: int = key("block_count", None)
    n_ctx: int = key("context_length", None)


def rms(role: str, size: int = WIDTH, **settings: Any) -> Norm:
    return Norm(role, size, 1e-5, **settings)


def attention(width: int = WIDTH, **settings: Any) -> Attention:
    return Attention(width, 4, 2, 32, Rope(32, 10000.0, "norm"), **settings)


def branches(width: int = WIDTH, **feed_forward: Any) -> tuple[Branch, ...]:
    """A block of Llama's form; settings are those of its feed-forward."""
    hidden = FeedForward(width, feed_forward.pop("n_ff", 96), **feed_forward)
    return (Branch(rms("attn_norm", width), attention(width)), Branch(rms("ffn_norm", width), hidden))


def graph(*blocks: Any, width: int = WIDTH, norm: Norm | None = None, **settings: Any) -> Graph:
    """A graph of these blocks (one of Llama's form); settings are those of Embedding and Head, or ``inputs``."""
    inputs = settings.pop("inputs", ())
    of_head = {name: settings.pop(name) for name in ("tied", "bias", "softcap") if name in settings}
    if "logit_scale" in settings:
        of_head["scale"] = settings.pop("logit_scale")
    if "embedding_norm" in settings:
        settings["norm"] = settings.pop("embedding_norm")
    return Graph(
        Embedding(TOKENS, width, **settings),
        blocks or (branches(width),),
        norm or rms("output_norm", width),
        Head(TOKENS, width, **of_head),
        inputs,
    )


def write(
    path: Path, made: Graph, kind: str = "F32", seed: int = 0, drop: str = "", attends: float = 0.05, gain: float = 1.0
) -> dict[str, np.ndarray]:
    """Write a file of the graph, with matrices of ``kind``; returns the weights that it stands for.

    ``attends``: attention counts so little that the float16 of its cache does not hide errors of other parts. ``gain``:
    what norms multiply their first channel by, beside their weight.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "by-hand")
    writer.add_block_count(len(made.blocks))
    writer.add_context_length(CONTEXT)
    tiny_gguf.tokenizer(writer, TOKENS)
    weights = {}
    for name, _, tensor in made.tensors():
        if not tensor.used or name == drop:
            continue
        x = rng.standard_normal(tensor.shape)
        is_norm = name.endswith("norm.weight") or name.endswith("scale.weight")
        x = (x * 0.2 + is_norm if is_norm or len(tensor.shape) == 1 else x / tensor.shape[-1] ** 0.5).astype(np.float32)
        x *= np.float32(attends if name.endswith("attn_output.weight") else 1)
        x[0] *= np.float32(gain if name.endswith("norm.weight") else 1)
        x = -abs(x) - np.float32(0.1) if name.endswith("ssm_a") else x  # rates of decay
        if kind == "F32" or len(tensor.shape) < 2 or tensor.form == "values" or tensor.shape[-1] % 32:
            writer.add_tensor(name, x)
        else:
            blocks = quantize(x, tiny_gguf.TYPES[kind])
            x = dequantize(blocks, tiny_gguf.TYPES[kind])
            writer.add_tensor(name, blocks, raw_dtype=tiny_gguf.TYPES[kind])
        weights[name] = x
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def load(path: Path, made: Graph, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Model:
    """The model in a file that ``write`` made."""
    family = Family("by-hand", Sizes, lambda _: made, {})
    monkeypatch.setattr(registry, "for_gguf", lambda _: family)
    return Model(path, threads=2, **settings)


def truth(made: Graph, weights: dict[str, np.ndarray], ids: list[int], **settings: Any) -> np.ndarray:
    """Logits by the reference in float64."""
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    return reference.logits(made, exact, ids, **settings)


def token_by_token(model: Model, ids: list[int]) -> np.ndarray:
    return np.concatenate([model.extend([each], i, all_logits=True) for i, each in enumerate(ids)])


def in_pieces(model: Model, ids: list[int], sizes: tuple[int, ...]) -> np.ndarray:
    """Logits of pieces of these sizes, and of the rest."""
    rows, at = [], 0
    for size in (*sizes, len(ids) - sum(sizes)):
        rows.append(model.extend(ids[at : at + size], at, all_logits=True))
        at += size
    return np.concatenate(rows)
