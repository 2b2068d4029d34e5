"""Attention in every setting: the runner's ops against the reference, however a text is cut into passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention, Branch, Graph, Norm, Rope, Temperature
from gguflike.runner import Model, buffers, state
from gguflike.runner.graph import check as check_graph
from gguflike.runner.parts.attending import span_of_several
from gguflike.runner.parts.attention import check as check_part
from gguflike.runner.parts.attention import padded_dim
from gguflike.runner.state import KVCache
from tests import by_hand
from tests.by_hand import TOKENS, WIDTH, in_pieces, rms, token_by_token

ROPE = Rope(32, 10000.0, "neox")
IDS = np.random.default_rng(5).integers(0, TOKENS, 400).tolist()


def attention(**changes: Any) -> Attention:
    """Four heads of 32 dimensions on two."""
    settings: dict[str, Any] = {"n_embd": WIDTH, "heads": 4, "kv_heads": 2, "head_dim": 32, "rope": ROPE}
    return Attention(**settings | changes)


def graph_of(*layers: Attention) -> Graph:
    forward = by_hand.branches()[1]
    return by_hand.graph(*((Branch(rms("attn_norm"), layer), forward) for layer in layers))


class Tiny:
    """A model of a graph, with random weights, and what the reference says of it."""

    def __init__(
        self, made: Graph, path: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "F32", **settings: Any
    ) -> None:
        self._graph, self._weights = made, by_hand.write(path, made, kind, attends=1.0)
        self.model: Model = by_hand.load(path, made, monkeypatch, **{"context": 512, "cache_type": "f32", **settings})

    def want(self, ids: list[int]) -> np.ndarray:
        return by_hand.truth(self._graph, self._weights, ids, length=self.model.context)


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 64 tokens, so that a ring of 128 positions holds a window of up to 64."""
    monkeypatch.setattr(buffers, "BATCH", 64)
    monkeypatch.setattr(state, "BATCH", 64)


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(abs(got - want).max() / abs(want).max())


def check(tiny: Tiny, ids: list[int], tolerance: float = 2e-5) -> None:
    want = tiny.want(ids)
    with tiny.model as model:
        few = ids[:60]
        assert error(token_by_token(model, few), want[:60]) < tolerance
        assert error(in_pieces(model, ids, (7, 1, 40, 2)), want) < tolerance
        assert error(model.logits(ids), want) < tolerance
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
WHOLE_OF_8 = {"q_norm": Norm("attn_q_norm", 32, 1e-5), "k_norm": Norm("attn_k_norm", 16, 1e-5)}
SOME = {"q_norm": Norm("attn_q_norm", 20, 1e-5), "k_norm": Norm("attn_k_norm", 20, 1e-5, "layer", bias=True)}
BARE = {"q_norm": head_norm("", weight=False), "k_norm": head_norm("", weight=False), "norm_after_rope": True}
CASES: dict[str, list[dict[str, Any]]] = {
    "norms of heads": [NORMS],
    "whole norms, values": [{**WHOLE, "v_norm": head_norm("attn_v_norm", weight=False)}],
    "layer norms by head": [GROUPED],
    "norms after rope": [BARE, {**NORMS, "norm_after_rope": True}],
    "no rope, temperature": [{"rope": None, "temperature": Temperature(0.1, 8.0, 1.0)}, {}],
    "odd rope": [{"rope": Rope(14, 500.0, "neox")}, {"rope": Rope(10, 500.0, "norm"), "scale": 0.3}],
    "clamp": [{"clamp": 0.8, **NORMS, "bias": True, "output_bias": True}],
    "fused": [{"fused": True, "bias": True}, {"fused": True, **NORMS}],
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
    "smaller values": [
        {"value_dim": 16, "bias": True, "output_bias": True},
        {"value_dim": 20, "kv_heads": 4, "window": 20, "sinks": True, "rope": Rope(14, 100.0, "neox")},
    ],
    "smaller values, fused": [{"value_dim": 16, "fused": True}, {"value_dim": 16, "fused": True, **NORMS}],
    "smaller values, gates": [
        {"value_dim": 16, "gate": "element", "output_norm": Norm("attn_sub_norm", 64, 1e-5)},
        {"value_dim": 16, "gate": "head", "v_norm": Norm("attn_v_norm", 16, 1e-5), "clamp": 0.9},
    ],
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


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 8, "rope": Rope(8, 100.0, "norm"), **WHOLE_OF_8},
        {"head_dim": 20, "rope": Rope(20, 100.0, "neox"), "heads": 3, "kv_heads": 1, "window": 40},
        {"head_dim": 80, "rope": Rope(80, 100.0, "norm"), "gate": "head"},
        {"head_dim": 96, "rope": Rope(48, 100.0, "neox"), "sinks": True},
        {"head_dim": 512, "rope": Rope(128, 100.0, "neox"), "heads": 2, "kv_heads": 1, "window": 10},
    ],
    ids=lambda changes: str(changes["head_dim"]),
)
def test_a_size_of_heads(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(Tiny(graph_of(attention(**changes)), tmp_path / "m.gguf", monkeypatch), IDS[:100])


@pytest.mark.usefixtures("small_passes")
def test_a_cache_of_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = attention(head_dim=20, rope=Rope(20, 100.0, "norm"), **SOME)
    graph = graph_of(attention(window=30, **NORMS), narrow)
    check(Tiny(graph, tmp_path / "m.gguf", monkeypatch, cache_type="q8_0"), IDS[:150], 3e-2)


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_the_same_bits_however_a_text_is_cut(cache_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (
        attention(window=30, sinks=True, softcap=4.0, **NORMS, gate="query"),
        attention(window=48, chunked=True, temperature=Temperature(0.1, 8.0)),
        attention(**WHOLE, gate="element", rope=Rope(10, 100.0, "neox"), output_norm=Norm("attn_sub_norm", 128, 1e-5)),
    )
    tiny = Tiny(graph_of(*layers), tmp_path / "m.gguf", monkeypatch, "Q8_0", cache_type=cache_type)
    with tiny.model as model:
        whole = model.logits(IDS)
        assert error(whole, tiny.want(IDS)) < 0.1
        assert np.array_equal(in_pieces(model, IDS, (9, 1, 64, 33, 1, 70, 20)), whole)
        assert np.array_equal(token_by_token(model, IDS[:150]), whole[:150])


def test_positions_are_forgotten_truly() -> None:
    cache = KVCache(1, 16, 100_000, sees=100)
    assert (cache.positions, cache.forgets) == (640, True)
    assert cache.nbytes == 640 * 16 * 2 * 2
    cache.advance(0, 512)
    assert [cache.reusable(count) for count in (0, 1, 300, 512)] == [0, 1, 300, 512]
    cache.advance(512, 512)  # positions up to 383 are lost
    assert [cache.reusable(count) for count in (0, 1, 482, 483, 1024)] == [0, 0, 0, 483, 1024]
    cache.cut(500)
    cache.advance(500, 1)  # going back brings nothing back
    assert [cache.reusable(count) for count in (482, 483)] == [0, 483]
    saved = cache.save(1024)
    cache.cut(0)
    cache.advance(0, 50)
    assert cache.reusable(50) == 50
    cache.restore(saved)
    assert [cache.reusable(count) for count in (482, 483)] == [0, 483]
    assert not KVCache(1, 16, 512, sees=100).forgets  # no larger than all positions


def test_a_window_nearly_as_long_as_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ring, since it would be longer than the context, but keys that are not seen."""
    tiny = Tiny(graph_of(attention(window=100)), tmp_path / "m.gguf", monkeypatch, context=128)
    with tiny.model as model:
        assert error(in_pieces(model, IDS[:128], (60, 1, 50, 10)), tiny.want(IDS[:128])) < 2e-5
        assert not model.states.of_mixers[0].forgets  # type: ignore[union-attr]


def test_a_fused_matrix_that_cannot_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are repacked in groups that keys and values share."""
    graph = graph_of(attention(fused=True, bias=True, heads=4, head_dim=24, rope=Rope(16, 100.0, "norm")))
    tiny = Tiny(graph, tmp_path / "m.gguf", monkeypatch, "Q8_0")
    with tiny.model as model:
        whole = model.logits(IDS[:70])
        assert error(whole, tiny.want(IDS[:70])) < 0.1
        assert np.array_equal(token_by_token(model, IDS[:70]), whole)


@pytest.mark.usefixtures("small_passes")
def test_windows_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that share the rings, each longer than they are, are what they are alone."""
    graph = graph_of(attention(window=40), attention())
    tiny = Tiny(graph, tmp_path / "m.gguf", monkeypatch, "Q8_0")
    prompts = [IDS[:200], IDS[100:130], [*IDS[:150], *IDS[:5]]]
    with tiny.model as model:
        alone = []
        for prompt in prompts:
            model.forget(0)
            alone.append(model.generate(prompt, 30).result().tokens)
        streams = [model.generate(prompt, 30, lookup=4) for prompt in prompts]
        pieces = [iter(stream) for stream in streams]
        for _ in range(30):
            for each in pieces:
                next(each, None)
        assert [stream.generation.tokens for stream in streams] == alone
        model.logits(IDS)
        model.logits(prompts[1])
        assert model.common_prefix([*prompts[1], 1]) == len(prompts[1])  # a ring begun anew has lost nothing
        assert model.generate(IDS[:190], 30).result().tokens == model.generate(IDS[:190], 30).result().tokens


@pytest.mark.parametrize("window", [0, 30])
def test_tokens_see_those_behind_them(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "BATCH", 64)  # which such a model does not heed
    tiny = Tiny(graph_of(attention(causal=False, window=window)), tmp_path / "m.gguf", monkeypatch)
    with tiny.model as model:
        for count in (200, 1, 30):
            assert error(model.logits(IDS[:count]), tiny.want(IDS[:count])) < 2e-5
        with pytest.raises(UnsupportedError, match="cannot be computed in pieces"):
            model.extend([1], 30)


def test_shapes_that_no_op_has() -> None:
    rope = Rope(34, 100.0, "neox")
    for changes in (
        {"heads": 3},
        {"rope": rope},
        {"head_dim": 8192},
        {"value_dim": 33},
    ):
        with pytest.raises(UnsupportedError, match="attention shape"):
            check_part(attention(**changes))
    with pytest.raises(UnsupportedError, match="an odd number of dimensions"):
        Rope(7, 100.0, "norm")


@pytest.mark.parametrize(
    "layers",
    [
        ({}, {"kv_layer": 0, "kv_heads": 4}),
        ({}, {"kv_layer": 0, "head_dim": 48}),
        ({"value_dim": 16}, {"kv_layer": 0}),
        ({"window": 20}, {"kv_layer": 0}),
        ({}, {"kv_layer": 0, "window": 20}),
        ({"window": 20}, {"kv_layer": 0, "window": 20, "chunked": True}),
        ({}, {"kv_layer": 1}),
        ({"kv_layer": 1}, {}),
    ],
    ids=str,
)
def test_keys_of_another_layer_must_be_there_in_the_same_form(layers: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(UnsupportedError, match=r"layer \d reads the keys and values of layer \d, which has none"):
        check_graph(graph_of(*(attention(**changes) for changes in layers)))


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_the_longest_heads_have_room(cache_type: str) -> None:
    """Ops have room for the queries of an item with whatever padding a type of cache has."""
    for dim in range(1440, 1620, 4):
        part = attention(head_dim=dim)
        try:
            check_part(part)
        except UnsupportedError:
            assert dim > 1500
        else:
            cache = KVCache(1, padded_dim(dim, cache_type), 32, cache_type)
            assert span_of_several(part, cache)[1] > 0
