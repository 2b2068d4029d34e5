"""Loss-aware Hessians against their definition, computed in float64 from the gradients of each token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import reference
from gguflike.calibrate.fisher import Sensitivity, at_once, fisher, gradient_bytes, sampled, token_weights
from gguflike.calibrate.sensitivities import measure
from gguflike.calibrate.statistics import StackStatistics, Statistics
from gguflike.calibrate.stream import stream
from gguflike.calibrate.sums import Hessians
from gguflike.calibrate.tables import Table
from gguflike.errors import ArgumentError, OutputError, QuantizationError
from gguflike.families.parts import Block, Branch, FeedForward, Graph
from gguflike.reference.gradient import Product
from gguflike.reference.gradient.graph import Blocks, State, by_layer, gradients
from tests import by_hand, test_attention, test_parts
from tests.walks import DENSE, EXPERTS, TEXTS, weights_of

module = sys.modules[fisher.__module__]
SHARED = test_attention.graph_of(test_attention.attention(), test_attention.attention(kv_layer=0))
INPUTS = test_parts.layer_inputs(8)


def found_of(graph: Graph, folder: Path, **settings: Any) -> dict[str, tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Of each matrix: H_O of each of a stack, s_t, tokens that reached it."""
    found = {}

    def tell(name: str, each: Sensitivity) -> None:
        found[name] = [each.output(i) for i in range(len(each.reached))], each.tokens, each.reached

    fisher(graph, settings.pop("read", weights_of(graph).__getitem__), TEXTS, tell, folder, **settings)
    return found


def products_of(graph: Graph, weights: dict[str, np.ndarray], ids: list[int], by_logits: np.ndarray) -> list[Product]:
    """Those with all matrices of the blocks, by full names, with a tape for a whole block."""
    blocks, layers = Blocks(graph, len(ids)), by_layer(graph, weights)
    matrices = [(layer, name) for name, layer, t in graph.tensors() if t.used and layer is not None and t.is_matrix]
    states, seen = [blocks.start(weights, ids)], list[Product]()
    for layer, here in enumerate(layers):
        states.append(blocks.run(layer, here, states[-1]))
    _, by_x, _ = blocks.ends(weights, states.pop().x, lambda _: (0.0, by_logits))
    gradient = State(by_x, {}, {})
    for layer in reversed(range(len(layers))):
        names = {name.split(".", 2)[2]: name for at, name in matrices if at == layer}

        def keep(product: Product, names: dict[str, str] = names) -> None:
            seen.append(product._replace(name=names[product.name]))

        gradient = blocks.back(layer, layers[layer], states.pop(), gradient, watched=names, watch=keep).state
    return seen


@pytest.mark.parametrize("graph", [DENSE, EXPERTS, SHARED, INPUTS], ids=["dense", "experts", "shared keys", "inputs"])
def test_factors_are_sums_over_tokens(graph: Graph, tmp_path: Path) -> None:
    found = found_of(graph, tmp_path, threads=2)
    weights = weights_of(graph)
    matrices = [name for name, layer, t in graph.tensors() if t.used and layer is not None and len(t.shape) > 1]
    assert sorted(found) == sorted(matrices)
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    total = {name: np.zeros((*weights[name].shape[:-1], weights[name].shape[-2])) for name in matrices}
    for i, ids in enumerate(TEXTS):
        labels = np.random.default_rng([0, i])  # float32 logits decide the labels, as in the walk
        _, by_logits = sampled(reference.logits(graph, weights, ids), labels)
        for product in products_of(graph, exact, ids, by_logits):
            of = total[product.name] if product.member is None else total[product.name][product.member]
            for g in product.gradient:
                if g.any():
                    of += np.outer(g, g) / np.sqrt(np.mean(g**2))
    for name, want in total.items():
        outputs, _, reached = found[name]
        if len(outputs) == 1:
            assert np.allclose(outputs[0], want * len(want) / np.trace(want), rtol=1e-3, atol=1e-4)
            continue
        scaled = [each * len(each) / np.trace(each) if np.trace(each) else np.eye(len(each)) for each in want]
        mean = np.mean([each for each, count in zip(scaled, reached, strict=True) if count], axis=0)
        for own, output, count in zip(scaled, outputs, reached, strict=True):
            share = count / (count + len(own))
            assert np.allclose(output, share * own + (1 - share) * mean, rtol=1e-3, atol=1e-4)


def test_token_weights_are_squared_gradients(tmp_path: Path) -> None:
    """Of the outputs, which the bias's gradient is, a token at a time."""
    graph = by_hand.graph(by_hand.branches(bias=True))
    weights = weights_of(graph)
    name = "blk.0.ffn_down"
    _, tokens, reached = found_of(graph, tmp_path)[f"{name}.weight"]
    assert reached.tolist() == [sum(map(len, TEXTS))]
    at = 0
    for i, ids in enumerate(TEXTS):
        _, by_logits = sampled(reference.logits(graph, weights, ids), np.random.default_rng([0, i]))
        # What the last branch gives goes to its own token's logits and no other's.
        for t in range(len(ids)):
            only = np.where(np.arange(len(ids))[:, None] == t, by_logits, 0)
            _, by = gradients(graph, weights, ids, lambda _, only=only: (0.0, only), [f"{name}.bias"])
            assert tokens[at + t] == pytest.approx(np.square(by[f"{name}.bias"]).mean(), rel=1e-3)
        at += len(ids)
    one = Sensitivity(np.zeros((1, 4, 4), np.float32), tokens, reached)
    assert np.allclose(token_weights([one]), np.sqrt(tokens) / np.sqrt(tokens).mean(), rtol=1e-5)
    assert token_weights([one, one], 1.0).mean() == pytest.approx(1)


def test_the_same_bits_at_any_number_of_threads(tmp_path: Path) -> None:
    one, four = (found_of(EXPERTS, tmp_path, threads=threads) for threads in (1, 4))
    for name, (outputs, tokens, _) in one.items():
        assert np.array_equal(outputs, four[name][0])
        assert np.array_equal(tokens, four[name][1])
    assert not list(tmp_path.iterdir())
    other = found_of(EXPERTS, tmp_path, seed=1)
    assert not np.array_equal(other["blk.0.attn_q.weight"][1], one["blk.0.attn_q.weight"][1])


def test_the_same_bits_however_many_gradients_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = found_of(EXPERTS, tmp_path, threads=2)
    held = []
    monkeypatch.setattr(module, "at_once", lambda *of: held.append(at_once(*of)) or held[-1])
    monkeypatch.setattr(module, "GRADIENTS", 1)
    one = found_of(EXPERTS, tmp_path, threads=2)
    assert set(held) == {1}
    for name, (outputs, tokens, reached) in many.items():
        for want, got in zip((*outputs, tokens, reached), (*one[name][0], *one[name][1:]), strict=True):
            assert np.array_equal(want, got)


def test_logits_of_a_large_vocabulary_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same labels, so that all is as at once but for rounding."""
    whole, tables = found_of(DENSE, tmp_path), list[Table]()
    found_of(DENSE, tmp_path, tables=lambda _, table: tables.append(table))
    monkeypatch.setattr(module, "LOGITS", 4 * DENSE.embedding.n_vocab * 3)
    parts = found_of(DENSE, tmp_path, tables=lambda _, table: tables.append(table))
    for name, (outputs, tokens, _) in whole.items():
        assert np.allclose(parts[name][0][0], outputs[0], rtol=1e-3, atol=1e-4)
        assert np.allclose(parts[name][1], tokens, rtol=1e-3, atol=1e-7)
    for one, other in zip(tables[: len(tables) // 2], tables[len(tables) // 2 :], strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_gradients_are_held_of_fewer_sequences_where_they_are_larger() -> None:
    def block(width: int, hidden: int) -> Block:
        return (Branch(None, FeedForward(width, hidden)),)

    assert at_once(512, block(768, 2048)) == 8
    assert at_once(512, block(4096, 14336)) == 3  # of 64 MiB in 192
    assert at_once(8192, block(4096, 14336)) == 1


def test_gradients_of_a_stack_are_of_the_experts_of_a_token() -> None:
    (block,) = EXPERTS.blocks
    seen = products_of(EXPERTS, weights_of(EXPERTS), TEXTS[0], np.ones((len(TEXTS[0]), EXPERTS.embedding.n_vocab)))
    assert gradient_bytes(len(TEXTS[0]), block) == sum(4 * each.gradient.size for each in seen)


def test_what_no_token_reaches_has_the_identity() -> None:
    none = Sensitivity(np.zeros((3, 4, 4), np.float32), np.zeros(7, np.float32), np.zeros(3, np.int64))
    assert np.array_equal(none.output(2), np.eye(4))
    assert np.array_equal(token_weights([none]), np.ones(7))


def test_what_has_no_gradient_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(DENSE)
    weights["blk.1.ffn_down.weight"][3, 5] = np.nan
    with pytest.raises(QuantizationError, match="a gradient is not finite"):
        found_of(DENSE, tmp_path, read=weights.__getitem__)
    with pytest.raises(ArgumentError, match="no text"):
        fisher(DENSE, weights.__getitem__, [[1], []], lambda *_: None, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(OutputError, match="no room for what calibrating keeps"):
        found_of(DENSE, tmp_path)


def test_labels_are_drawn_from_the_model() -> None:
    logits = np.log(np.array([[0.5, 0.2, 0.3]], np.float32)).repeat(4000, axis=0)
    loss, gradient = sampled(logits, np.random.default_rng(0))
    drawn = np.bincount((gradient < 0).argmax(axis=1), minlength=3) / 4000
    assert np.allclose(drawn, [0.5, 0.2, 0.3], atol=0.03)
    assert loss == pytest.approx(-4000 * (drawn * np.log([0.5, 0.2, 0.3])).sum(), rel=1e-4)
    assert np.allclose(gradient.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("graph", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_tokens_count_as_often_as_their_weights_say(graph: Graph, tmp_path: Path) -> None:
    """Twice and not at all is what a Gram matrix of other texts says."""
    shares = np.concatenate([np.full(len(ids), share, np.float32) for ids, share in zip(TEXTS, (2, 0, 1), strict=True)])
    seen: dict[str, list[np.ndarray]] = {}
    for key, texts, counting in (
        ("shares", TEXTS, lambda _: shares),
        ("copies", [TEXTS[0], TEXTS[0], TEXTS[2]], lambda _: None),
    ):
        found: dict[str, Any] = {}
        stream(
            graph,
            weights_of(graph).__getitem__,
            texts,
            None,
            tmp_path / key,
            found=lambda names, each, found=found: found.update({names[0]: sums_of(each)}),
            counting=counting,
            collecting=Hessians(cap=None),
        )
        seen[key] = found
    assert seen["shares"].keys() == seen["copies"].keys()
    for name, want in seen["copies"].items():
        assert np.allclose(seen["shares"][name], want, rtol=1e-4, atol=1e-4)


def sums_of(statistics: Any) -> np.ndarray:
    """The sum of outer products, of a stack those of all its matrices."""
    each = statistics.layer if isinstance(statistics, StackStatistics) else statistics
    return each.gram * np.float32(each.tokens)


def test_what_is_kept_is_what_was_found(tmp_path: Path) -> None:
    weights, found = weights_of(EXPERTS), found_of(EXPERTS, tmp_path)
    kept = measure(EXPERTS, weights.__getitem__, TEXTS, tmp_path / "kept", key="model")
    for name, (outputs, tokens, _) in found.items():
        each = [Statistics(np.eye(2, dtype=np.float32), None, 3)] * len(outputs)
        both = kept.beside(name, each)
        assert all(np.array_equal(got.output, want) for got, want in zip(both, outputs, strict=True))
        one = Sensitivity(np.zeros((1, 1, 1), np.float32), tokens, np.zeros(1, np.int64))
        assert np.array_equal(kept.counting()((name, "unknown")), token_weights([one]))
    assert kept.counting()(("unknown",)) is None
    assert kept.beside("unknown", each[0]).output is None


def test_a_run_with_the_same_key_is_taken_as_it_is(tmp_path: Path) -> None:
    weights, asked = weights_of(DENSE), []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return weights[name]

    for key, reads in (("model", True), ("model", False), ("another", True)):
        asked.clear()
        measure(DENSE, read, TEXTS, tmp_path, key=key)
        assert bool(asked) == reads
    assert measure(DENSE, read, TEXTS, tmp_path, key="another").output("blk.0.attn_q.weight") is not None
