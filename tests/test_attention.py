"""Attention in every setting: the runner's ops against the reference, however a text is cut into passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguflike import reference, runner
from gguflike.families import registry
from gguflike.families.parts import Attention, Branch, Embedding, FeedForward, Graph, Head, Norm, Rope, Temperature
from gguflike.frozen import replace
from gguflike.runner import buffers, state
from tests import tiny_gguf

N_EMBD, VOCAB = 64, 300
ROPE = Rope(32, 10000.0, "neox")
IDS = np.random.default_rng(5).integers(0, VOCAB, 400).tolist()


def attention(**changes: Any) -> Attention:
    """Four heads of 32 dimensions on two."""
    settings: dict[str, Any] = {"n_embd": N_EMBD, "heads": 4, "kv_heads": 2, "head_dim": 32, "rope": ROPE}
    return Attention(**settings | changes)


def graph_of(*layers: Attention) -> Graph:
    norm = Norm("attn_norm", N_EMBD, 1e-5)
    forward = Branch(Norm("ffn_norm", N_EMBD, 1e-5), FeedForward(N_EMBD, 96))
    blocks = tuple((Branch(norm, layer), forward) for layer in layers)
    return Graph(Embedding(VOCAB, N_EMBD), blocks, Norm("output_norm", N_EMBD, 1e-5), Head(VOCAB, N_EMBD))


class Tiny:
    """A model of a graph, with random weights, and what the reference says of it."""

    def __init__(self, graph: Graph, path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        rng = np.random.default_rng(1)
        self.graph, self.weights = graph, {}
        writer = gguf.GGUFWriter(path, "llama")
        tiny_gguf.metadata(writer, tiny_gguf.SMALL | {"n_layer": len(graph.blocks), "n_ctx": 1024})
        for name, _, tensor in graph.tensors():
            if tensor.used:
                x = rng.standard_normal(tensor.shape).astype(np.float32)
                small = len(tensor.shape) == 1 or "norm" in name
                x = (
                    x * np.float32(0.3) + np.float32("norm" in name)
                    if small
                    else x / np.float32(tensor.shape[1] ** 0.5)
                )
                self.weights[name] = x
                writer.add_tensor(name, x)
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write()
        writer.close()
        family = registry.for_gguf("llama")
        monkeypatch.setattr(registry, "for_gguf", lambda _: replace(family, graph=lambda _: graph))
        self.model = runner.load(path, **{"context": 512, "threads": 2, **settings})

    def want(self, ids: list[int]) -> np.ndarray:
        weights = {name: value.astype(np.float64) for name, value in self.weights.items()}
        return reference.logits(self.graph, weights, ids, self.model.context)


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 64 tokens, so that a ring of 128 positions holds a window of up to 64."""
    monkeypatch.setattr(buffers, "BATCH", 64)
    monkeypatch.setattr(state, "BATCH", 64)


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(abs(got - want).max() / abs(want).max())


def in_pieces(model: runner.Model, ids: list[int], sizes: list[int]) -> np.ndarray:
    """Logits after each id, computed by passes of these sizes, in turns."""
    model.forget(0)
    rows: list[np.ndarray] = []
    while len(rows) < len(ids):
        start, size = len(rows), sizes[len(rows) % len(sizes)]
        rows += list(model.extend(ids[start : start + size], start, all_logits=True).copy())
    return np.array(rows)


def check(tiny: Tiny, ids: list[int], tolerance: float = 2e-3) -> None:
    want = tiny.want(ids)
    with tiny.model as model:
        assert error(model.logits(ids), want) < tolerance
        assert error(in_pieces(model, ids, [7, 1, 40, 2, 70]), want) < tolerance
        few = ids[:60]
        assert error(in_pieces(model, few, [1]), want[:60]) < tolerance
        # Another continuation after going back, and the first one again.
        other = [*ids[:41], *few[:9]]
        model.forget(41)
        assert error(model.extend(few[:9], 41, all_logits=True), tiny.want(other)[41:]) < tolerance
        assert error(model.extend(ids[41:50], 41, all_logits=True), want[41:50]) < tolerance


def head_norm(role: str, **settings: Any) -> Norm:
    return Norm(role, 32, 1e-5, **settings)


NORMS = {"q_norm": head_norm("attn_q_norm"), "k_norm": head_norm("attn_k_norm")}
WHOLE = {"q_norm": Norm("attn_q_norm", 128, 1e-5), "k_norm": Norm("attn_k_norm", 64, 1e-5)}
GROUPED = {
    "q_norm": Norm("attn_q_norm", 32, 1e-5, "layer", groups=4),
    "k_norm": Norm("attn_k_norm", 32, 1e-5, "layer", groups=2),
}
BARE = {"q_norm": head_norm("", weight=False), "k_norm": head_norm("", weight=False), "norm_after_rope": True}
CASES: dict[str, list[dict[str, Any]]] = {
    "norms of heads": [NORMS],
    "whole norms, values": [{**WHOLE, "v_norm": head_norm("attn_v_norm", weight=False)}],
    "layer norms by head": [GROUPED],
    "weightless norms after rope": [BARE],
    "no rope, temperature": [{"rope": None, "temperature": Temperature(0.1, 8.0, 1.0)}, {}],
    "odd rope": [{"rope": Rope(14, 500.0, "neox")}, {"rope": Rope(10, 500.0, "norm"), "scale": 0.3}],
    "clamp": [{"clamp": 0.8, **NORMS, "bias": True, "output_bias": True}],
    "fused": [{"fused": True, "bias": True}],
    "values are keys": [{"value_is_key": True, "k_norm": NORMS["k_norm"], "v_norm": head_norm("", weight=False)}],
    "query gate": [{"gate": "query", **NORMS}],
    "element gate, norm": [{"gate": "element", "output_norm": Norm("attn_sub_norm", 128, 1e-5)}],
    "head gate": [{"gate": "head", "gate_activation": "softplus"}],
    "soft-cap": [{"softcap": 2.0}],
    "sinks": [{"sinks": True}, {"sinks": True, "window": 30}],
    "window, full": [{"window": 20, **NORMS}, {"rope": Rope(32, 100.0, "neox")}],
    "chunks": [{"window": 24, "chunked": True}],
    "wide window": [{"window": 5000}],
    "shared keys": [{"window": 20}, {}, {"window": 20, "kv_layer": 0, "q_norm": NORMS["q_norm"]}, {"kv_layer": 1}],
    "everything": [
        {
            **NORMS,
            "window": 33,
            "softcap": 3.0,
            "sinks": True,
            "gate": "query",
            "temperature": Temperature(0.2, 16.0),
            "output_norm": Norm("attn_sub_norm", 128, 1e-5),
            "rope": Rope(12, 100.0, "norm"),
            "scale": 0.5,
        }
    ],
}


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("name", CASES)
def test_a_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(*(attention(**changes) for changes in CASES[name]))
    check(Tiny(graph, tmp_path / "m.gguf", monkeypatch), IDS[:150])
