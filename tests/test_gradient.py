"""Gradients of the reference against finite differences in float64, for parts of every kind and setting."""

from __future__ import annotations

from functools import partialmethod
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import reference
from gguflike.families.parts import Branch, Graph
from gguflike.reference.forward import by_layer
from gguflike.reference.gradient import Product, Tape
from gguflike.reference.gradient.contraction import contract
from gguflike.reference.gradient.graph import Blocks, State, gradients
from tests import by_hand, test_attention, test_experts, test_indexers, test_latent, test_parts, test_recurrent
from tests.by_hand import IDS, WIDTH, rms

STEP = 1e-6
GRAPHS: dict[str, Graph] = {
    **test_parts.GRAPHS,
    **{
        name: test_attention.graph_of(*(test_attention.attention(**changes) for changes in layers))
        for name, layers in test_attention.CASES.items()
    },
    **{name: test_recurrent.graph(part) for name, part in test_recurrent.PARTS.items()},
    **{f"latent, {name}": made for name, made in test_latent.GRAPHS.items()},
    **{
        f"experts, {name}": by_hand.graph((by_hand.branches()[0], Branch(rms("ffn_norm"), part)))
        for name, part in test_experts.PARTS.items()
    },
    "experts, own norms": by_hand.graph((Branch(None, test_experts.OWN_NORMS),)),
    "indexer": test_indexers.indexed(4),
    "indexer of blocks": test_indexers.in_blocks(2),
}


def drawn(path: Path, made: Graph) -> dict[str, np.ndarray]:
    weights = by_hand.write(path, made, attends=1.0)
    return {name: value.astype(np.float64) for name, value in weights.items()}


class Probe:
    """A loss: the logits times fixed random numbers, squared in part, so that its gradient is no constant."""

    def __init__(self, seed: int = 3) -> None:
        self._rng = np.random.default_rng(seed)
        self._by: np.ndarray | None = None

    def __call__(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        if self._by is None:
            self._by = self._rng.standard_normal(logits.shape)
        by = self._by
        return float((by * logits + 0.1 * logits**2).sum()), by + 0.2 * logits


@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_are_finite_differences(tmp_path: Path, name: str) -> None:
    """Along a random direction through each half of the weights, and through all of them."""
    made = GRAPHS[name]
    weights, loss = drawn(tmp_path / "m.gguf", made), Probe()
    rng = np.random.default_rng(1)
    _, found = gradients(made, weights, IDS, loss, weights)
    assert found.keys() == weights.keys()
    for half in (set(list(weights)[::2]), set(list(weights)[1::2])):
        along = {key: rng.standard_normal(w.shape) * (key in half) for key, w in weights.items()}
        up, down = (
            loss(reference.logits(made, {key: w + sign * STEP * along[key] for key, w in weights.items()}, IDS))[0]
            for sign in (1, -1)
        )
        want = (up - down) / (2 * STEP)
        got = sum(float((found[key] * along[key]).sum()) for key in weights)
        assert got == pytest.approx(want, rel=3e-5, abs=1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_parts_by_themselves_have_the_same_gradients(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tape for each part of a block; to rounding, as what is not traced may be computed in another order."""
    made = GRAPHS[name]
    weights = drawn(tmp_path / "m.gguf", made)
    _, want = gradients(made, weights, IDS, Probe(), weights)
    monkeypatch.setattr(Blocks, "back", partialmethod(Blocks.back, apart=True))
    _, found = gradients(made, weights, IDS, Probe(), weights)
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11 * np.abs(value).max())


def test_a_watch_sees_each_product_with_its_gradient(tmp_path: Path) -> None:
    """Inputs and gradients of the products make up the gradients of the matrices, of experts each its own."""
    part = test_experts.PARTS["plain"]
    made = by_hand.graph((by_hand.branches()[0], Branch(rms("ffn_norm"), part)))
    weights, loss = drawn(tmp_path / "m.gguf", made), Probe()
    roles = ["attn_q", "attn_v", "attn_output", "ffn_up_exps", "ffn_down_exps"]
    roles = [f"{role}.weight" for role in roles]
    _, want = gradients(made, weights, IDS, loss, [f"blk.0.{role}" for role in roles])
    blocks, [here] = Blocks(made, len(IDS)), by_layer(made, weights)
    first = blocks.start(weights, IDS)
    _, by_x, _ = blocks.ends(weights, blocks.run(0, here, first).x, loss)
    seen: list[Product] = []
    found = blocks.back(0, here, first, State(by_x, {}, {}), watched=roles, watch=seen.append)
    assert not found.weights
    total = {role: np.zeros_like(here[role]) for role in roles}
    tokens: dict[int | None, list[int]] = {}
    for each in seen:
        of = total[each.name] if each.member is None else total[each.name][each.member]
        of += each.gradient.T @ each.inputs
        if each.name == "ffn_up_exps.weight":
            assert each.rows is not None
            tokens.setdefault(each.member, []).extend(each.rows)
    for role in roles:
        assert np.allclose(total[role], want[f"blk.0.{role}"], rtol=1e-9, atol=1e-12)
    assert sorted(chain.from_iterable(tokens.values())) == sorted(part.used * list(range(len(IDS))))


def test_contractions_are_einsum() -> None:
    rng = np.random.default_rng(0)
    sizes = dict(zip("thsdnr", (5, 4, 6, 3, 7, 2), strict=True))
    for first, second, result in (
        ("thd", "shd", "hts"),
        ("hts", "shd", "thd"),
        ("h", "hd", "hd"),
        ("hd", "hn", "hdn"),
        ("th", "ths", "ts"),
        ("thn", "hrn", "thr"),
        ("td", "s", "t"),
        ("td", "td", ""),
    ):
        a, b = (rng.standard_normal([sizes[letter] for letter in letters]) for letters in (first, second))
        assert np.allclose(contract(first, a, second, b, result), np.einsum(f"{first},{second}->{result}", a, b))


def test_elements_are_set_and_read_in_any_order() -> None:
    """Assigning changes the array that is assigned to, and not what was read from it before."""
    x = np.arange(6.0).reshape(2, 3)

    def computed(x: Any) -> Any:
        out = x.copy()
        before = out * 2
        out[:, 1] = before[:, 0] * x[:, 2]
        after = out * out
        out[..., np.array([0, 2])] = after[:, :2]
        return before + after * out

    tape = Tape()
    leaf = tape.leaf(x)
    result = computed(leaf)
    assert np.array_equal(result.value, computed(x))
    by = np.random.default_rng(2).standard_normal(x.shape)
    got = tape.backward([(result, by)]).of(leaf)
    steps = STEP * np.eye(6).reshape(6, 2, 3)
    want = [((computed(x + step) - computed(x - step)) * by).sum() / (2 * STEP) for step in steps]
    assert np.allclose(got.ravel(), want)


def test_what_would_lose_a_gradient_is_an_error() -> None:
    tape = Tape()
    x = tape.leaf(np.ones(3))
    with pytest.raises(TypeError, match="no rule of differentiation"):
        np.cumsum(x)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no rule of differentiation"):
        np.arctan(x)
    with pytest.raises(TypeError, match="its gradient would be lost"):
        np.asarray(x)
    plain = np.zeros(3)
    with pytest.raises(TypeError, match="write x = x \\+ y, not x \\+= y"):
        plain += x  # type: ignore[misc]
    with pytest.raises(TypeError, match="its gradient would be lost"):
        plain[:2] = x[:2]  # type: ignore[call-overload]
    matrices = tape.matrix("stack", np.ones((2, 3, 4)))
    with pytest.raises(TypeError, match="stack is watched"):
        matrices[0] * 2  # type: ignore[operator]


def test_only_one_blocks_activations_are_held(tmp_path: Path) -> None:
    """Twice the layers take no more memory than what goes between the blocks."""
    import tracemalloc

    peaks = []
    ids = [int(each) for each in np.random.default_rng(0).integers(0, by_hand.TOKENS, 96)]
    for count in (2, 8):
        made = by_hand.graph(*(by_hand.branches() for _ in range(count)))
        weights = drawn(tmp_path / f"{count}.gguf", made)
        tracemalloc.start()
        gradients(made, weights, ids, Probe(), ["output_norm.weight"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    hidden = len(ids) * WIDTH * 8
    assert peaks[1] - peaks[0] < 8 * hidden


def test_numbers_without_axes_add_up_as_arrays_do() -> None:
    tape = Tape()
    one, rows = tape.leaf(np.array(3.0)), tape.leaf(np.ones((2, 2)))
    result: Any = rows * one + one * 2 + one * one + rows[0] * one
    found = tape.backward([(result, np.ones((2, 2)))])
    assert found.of(one) == 4 + 8 + 24 + 4
    assert np.array_equal(found.of(rows), 3 + np.array([[6.0, 6.0], [0.0, 0.0]]))


def test_an_index_that_names_an_element_twice_adds_twice() -> None:
    tape = Tape()
    leaf = tape.leaf(np.arange(4.0))
    result: Any = leaf[[1, 1, 3]]
    assert np.array_equal(tape.backward([(result, np.array([1.0, 10.0, 5.0]))]).of(leaf), [0, 11, 0, 5])
    taken: Any = np.take_along_axis(leaf, np.array([2, 2, 0]), 0)  # type: ignore[type-var]
    assert np.array_equal(tape.backward([(taken, np.array([1.0, 2.0, 4.0]))]).of(leaf), [4, 0, 3, 0])
