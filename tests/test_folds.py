"""Scales that move between tensors: models compute the same, and what AWQ and SmoothQuant want of them comes true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import reference
from gguflike.calibrate import folds, scaling
from gguflike.calibrate.folds import Fold, Rows, Scaling
from gguflike.families.parts import Attention, Branch, FeedForward, Graph, Norm, Rope
from gguflike.families.parts.experts import Experts, Router
from tests import test_latent, test_parts, test_recurrent
from tests.by_hand import IDS, WIDTH, attention, branches, graph, rms
from tests.measures import relative_error

SHARED = FeedForward(WIDTH, 48, suffix="_shexp")


def with_attention(**settings: Any) -> Graph:
    return graph((Branch(rms("attn_norm"), attention(**settings)), Branch(rms("ffn_norm"), FeedForward(WIDTH, 96))))


def with_experts(**settings: Any) -> Graph:
    experts = Experts(WIDTH, 32, 5, 2, settings.pop("router", Router()), **settings)
    return graph((Branch(rms("attn_norm"), attention()), Branch(rms("ffn_norm"), experts)))


GRAPHS = {
    **test_parts.GRAPHS,
    **test_latent.GRAPHS,
    **{name: test_recurrent.graph(part) for name, part in test_recurrent.PARTS.items()},
    "fused attention": with_attention(fused=True, bias=True, output_bias=True),
    "gate of queries": with_attention(gate="query"),
    "gate of its own": with_attention(gate="element"),
    "normalized values": with_attention(v_norm=Norm("attn_v_norm", 32, 1e-5, weight=False)),
    "values are keys": with_attention(value_is_key=True),
    "one head of keys": graph((Branch(rms("attn_norm"), Attention(WIDTH, 4, 1, 16, Rope(16, 1e4, "neox"))),)),
    "keys of another layer": graph(branches(), (Branch(rms("attn_norm"), attention(kv_layer=0)),)),
    "experts": with_experts(shared=SHARED, shared_gate=True),
    "fused experts": with_experts(fused=True, router=Router("sigmoid", bias=True)),
    "experts on latents": with_experts(latent=32),
    "experts with a norm of their own": with_experts(input_norm=rms("ffn_pre_norm_2")),
}


def random_weights(made: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    weights = {}
    for name, _, tensor in made.tensors():
        if tensor.used:
            x = rng.standard_normal(tensor.shape) / max(tensor.shape[-1], 1) ** 0.5
            x = 1 + 0.2 * x if name.endswith("norm.weight") else x
            weights[name] = -abs(x) - 0.1 if name.endswith("ssm_a") else x
    return weights


def random_scales(found: list[Fold]) -> list[tuple[Fold, np.ndarray]]:
    rng = np.random.default_rng(4)
    return [(fold, np.exp(rng.uniform(-2, 2, fold.size)).astype(np.float32)) for fold in found]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_folded_model_computes_the_same(name: str) -> None:
    made = GRAPHS[name]
    weights = random_weights(made)
    found, _ = folds.find(made)
    assert found
    moved = folds.scaled(weights, folds.scalings(random_scales(found)))
    for fold in found:
        for tensor in (*(rows.name for rows in fold.divided), *fold.multiplied):
            assert np.abs(moved[tensor] / weights[tensor] - 1).max() > 0.5, tensor
    assert relative_error(reference.logits(made, moved, IDS), reference.logits(made, weights, IDS)) < 1e-5


def test_folds_of_a_llama() -> None:
    found, notices = folds.find(graph(branches(), branches()))
    assert notices == []
    assert [fold.kind for fold in found] == ["norm", "value", "norm", "up"] * 2 + ["norm"]
    assert found[0].divided == (Rows("blk.0.attn_norm.weight"),)
    assert found[0].multiplied == tuple(f"blk.0.attn_{name}.weight" for name in "qkv")
    assert (found[1].heads, found[1].group, found[1].size) == (2, 2, 64)
    assert found[-1].multiplied == ("output.weight",)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("norms behind", "the input of FeedForward: it is not normalized"),
        ("rms norms without weight", "the input of Attention: its norm has no gain"),
        ("tied", "the input of the output matrix: it is the embedding, too"),
        ("clamped", "ffn_down: the feed-forward is not linear in what its up matrix gives"),
        ("swiglu_oai", "ffn_down: the feed-forward is not linear"),
        ("gelu, not gated", "ffn_down: the feed-forward is not linear"),
        ("normalized values", "the output matrix of attention: values are normalized"),
        ("keys of another layer", "the output matrix of attention: values are"),
        ("experts with a norm of their own", "the input of Experts: it is normalized once more"),
        ("paths with norms behind", "the input of a sum of mixers: it is normalized once more"),
    ],
)
def test_where_nothing_may_be_folded_a_notice_says_so(name: str, what: str) -> None:
    _, notices = folds.find(GRAPHS[name])
    assert any(what in notice for notice in notices), notices


def test_scalings_of_several_folds_meet() -> None:
    """A matrix whose columns one fold multiplies and whose last rows two others divide."""
    one, two = np.array([2, 4], np.float32), np.array([8, 16], np.float32)
    made = folds.scalings(
        [
            (Fold("norm", 2, (Rows("n"),), ("m",)), one),
            (Fold("value", 2, (Rows("m", 1),), ("o",)), one),
            (Fold("up", 2, (Rows("m", 2),), ("d",), heads=1, group=2), two),
        ]
    )
    assert made["m"].rows is not None
    assert made["m"].rows.tolist() == [1, 1 / 2, 1 / 4 / 8, 1 / 16]
    ones = np.ones((5, 2), np.float32)
    assert made["m"].apply(ones).tolist() == [[2, 4], [1, 2], [1 / 16, 1 / 8], [1 / 8, 1 / 4], [2, 4]]
    assert np.array_equal(made["m"].apply(ones[2:4], start=2), made["m"].apply(ones)[2:4])
    assert made["n"].apply(np.ones(2, np.float32)).tolist() == [0.5, 0.25]
    assert made["d"].columns is not None
    assert made["d"].columns.tolist() == [8, 16, 8, 16]
    assert made["d"].of_importance(np.full(4, 256, np.float32)).tolist() == [4, 1, 4, 1]


def collected(inputs: np.ndarray) -> scaling.Magnitudes:
    collector = scaling.MagnitudeCollector(inputs.shape[1])
    for start in range(0, len(inputs), 100):
        collector.add(inputs[start : start + 100])
    return collector.result()


def test_magnitudes() -> None:
    inputs = np.random.default_rng(0).standard_normal((1100, 8)).astype(np.float32)
    seen = collected(np.concatenate([inputs, np.full((1, 8), np.nan, np.float32)]))
    assert np.array_equal(seen.largest, np.abs(inputs).max(axis=0))
    assert np.allclose(seen.mean, np.abs(inputs.astype(np.float64)).mean(axis=0), rtol=1e-6)
    assert np.allclose(seen.square, np.square(inputs.astype(np.float64)).mean(axis=0), rtol=1e-6)
    assert 100 < len(seen.sample) <= scaling.SAMPLE
    assert (seen.sample[:, None] == inputs).all(axis=2).any(axis=1).all()


def encode_q4(name: str, weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
    return gguflike.quantize(weights, "Q4_0", importance=importance).dequantize()


def test_awq_lowers_the_error_of_the_products_where_few_channels_are_large() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 64)).astype(np.float32)
    inputs[:, ::16] *= 30
    weights = {name: rng.standard_normal((48, 64)).astype(np.float32) for name in ("a", "b")}
    fold, seen = Fold("norm", 64, (Rows("n"),), ("a", "b")), collected(inputs)
    scales = scaling.awq(fold, seen, weights, encode_q4)
    assert scales is not None

    def error(by: np.ndarray) -> float:
        lost = [w - encode_q4("", w * by, seen.square / by**2) / by for w in weights.values()]
        return float(sum(np.square(each @ inputs.T).sum() for each in lost))

    assert error(scales) < 0.8 * error(np.ones(64, np.float32))


def test_awq_does_not_fold_what_gains_nothing() -> None:
    """An encoder that loses nothing, and a text that never reaches the matrix."""
    seen = collected(np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32))
    weights = {"a": np.ones((4, 32), np.float32)}
    fold = Fold("norm", 32, (Rows("n"),), ("a",))
    assert scaling.awq(fold, seen, weights, lambda *given: given[1]) is None
    assert scaling.awq(fold, collected(np.zeros((0, 32), np.float32)), weights, encode_q4) is None


def test_smoothquant_halves_the_exponent_of_what_is_large() -> None:
    """max|x| 16 and max|w| 1 become 4 and 4; heads that share scales are taken together; dead channels stay."""
    inputs = np.ones((10, 4), np.float32) * np.array([16, 1, 1, 0], np.float32)
    seen = collected(inputs)
    scales = scaling.smooth(Fold("norm", 4, (), ("w",)), seen, {"w": np.ones((3, 4), np.float32)})
    assert scales is not None
    assert np.allclose(scales[0] / scales[1], 4)
    assert scales[3] == 1
    shared = scaling.smooth(Fold("value", 2, (), ("w",), heads=1, group=2), seen, {"w": np.ones((3, 4), np.float32)})
    assert shared is not None
    assert np.allclose(shared[0] / shared[1], 4)
    assert scaling.smooth(Fold("norm", 4, (), ("w",)), seen, {"w": np.zeros((3, 4), np.float32)}) is None


def test_no_scaling_changes_nothing() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(Scaling().apply(values), values)
    assert Scaling().of_importance(values) is values
