"""What stands between matrix products, as the runner computes it, against the reference: each setting once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.families.parts import Branch, FeedForward, Graph, Norm
from gguflike.families.parts.extras import LayerEmbeddings, LayerInput, Rescale, Sum
from gguflike.families.parts.extras import Path as SumPath
from tests import by_hand
from tests.by_hand import IDS, WIDTH, attention, branches, graph, rms
from tests.measures import relative_error

XIELU = (0.7, 0.9, 0.5, -1e-6)
FF = FeedForward(WIDTH, 96)


def layer(role: str, **settings: Any) -> Norm:
    return Norm(role, WIDTH, 1e-5, "layer", **settings)


def parallel(*, shared: bool) -> tuple[Branch, ...]:
    """Attention beside a feed-forward, on one norm or each on its own."""
    first, second = (None, None) if shared else (rms("attn_norm"), rms("ffn_norm"))
    paths = (SumPath(first, attention()), SumPath(second, FF))
    return (Branch(rms("attn_norm") if shared else None, Sum(paths)),)


def layer_inputs(size: int) -> Graph:
    inputs = LayerEmbeddings(by_hand.TOKENS, WIDTH, 2, size, 4.0, rms("per_layer_proj_norm", size))
    blocks = [
        (*branches(), Branch(None, LayerInput(WIDTH, size, i, 2), after=rms("post_norm")), Rescale()) for i in range(2)
    ]
    return graph(*blocks, inputs=(inputs,))


GRAPHS: dict[str, Graph] = {
    "layer norms": graph(
        (Branch(layer("attn_norm", bias=True), attention()), Branch(layer("ffn_norm"), FF)),
        norm=layer("output_norm", weight=False),
    ),
    "rms norms without weight": graph(
        (Branch(rms("attn_norm", weight=False), attention()), Branch(rms("ffn_norm"), FF)),
    ),
    "norms behind": graph(
        (
            Branch(rms("attn_norm"), attention(), after=rms("post_attention_norm")),
            Branch(None, FF, after=rms("post_ffw_norm"), scale=0.3),
        ),
    ),
    "norms of the sum": graph(
        (
            Branch(None, attention(), after=layer("attn_output_norm", bias=True), post=True),
            Branch(None, FF, after=layer("layer_output_norm", bias=True), post=True),
        ),
        positions=by_hand.CONTEXT,
        types=2,
        embedding_norm=layer("token_embd_norm", bias=True),
    ),
    "scales": graph(
        tuple(Branch(each.norm, each.mixer, scale=0.22) for each in branches()),
        scale=12.0,
        logit_scale=0.125,
    ),
    "cap": graph(softcap=2.0, logit_scale=3.0, bias=True),
    "tied": graph(tied=True, bias=True),
    "parallel, one norm": graph(parallel(shared=True)),
    "parallel, two norms": graph(parallel(shared=False)),
    "paths with norms behind": graph(
        (
            branches()[0],
            Branch(
                rms("ffn_norm"),
                Sum(
                    (
                        SumPath(None, FF, after=rms("post_ffw_norm_1")),
                        SumPath(
                            rms("pre_ffw_norm_2"),
                            FeedForward(WIDTH, 64, suffix="_shexp"),
                            after=rms("post_ffw_norm_2"),
                        ),
                    )
                ),
                after=rms("post_ffw_norm"),
            ),
        ),
    ),
    "vectors for each layer": layer_inputs(32),
    "gelu, not gated": graph(branches(activation="gelu", gated=False, bias=True)),
    "gelu_tanh": graph(branches(activation="gelu_tanh")),
    "relu2, a norm before down": graph(branches(activation="relu2", down_norm=rms("ffn_sub_norm", 96))),
    "fused": graph(branches(fused=True, bias=True)),
    "fused gelu": graph(branches(fused=True, activation="gelu")),
    "clamped": graph(branches(clamp=0.5)),
    "swiglu_oai": graph(branches(activation="swiglu_oai", clamp=0.7)),
    "xielu": graph(branches(activation="xielu", gated=False, xielu=XIELU)),
}


def check(model: Any, want: np.ndarray, most: float) -> None:
    assert relative_error(model.logits(IDS), want) < most
    assert relative_error(by_hand.in_pieces(model, IDS, (3, 1, 6)), want) < most
    assert relative_error(by_hand.token_by_token(model, IDS), want) < most


@pytest.mark.parametrize("name", GRAPHS)
def test_floats_equal_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    weights = by_hand.write(tmp_path / "m.gguf", GRAPHS[name])
    with by_hand.load(tmp_path / "m.gguf", GRAPHS[name], monkeypatch) as model:
        check(model, by_hand.truth(GRAPHS[name], weights, IDS), 5e-4)


@pytest.mark.parametrize("name", GRAPHS)
def test_quantized_are_near_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Activations are rounded to int8, so only a wrong op shows; the float test above finds wrong numbers. A token's
    logits are the same bits, computed alone or with others."""
    weights = by_hand.write(tmp_path / "m.gguf", GRAPHS[name], "Q8_0")
    with by_hand.load(tmp_path / "m.gguf", GRAPHS[name], monkeypatch) as model:
        check(model, by_hand.truth(GRAPHS[name], weights, IDS), 0.04)
        assert model.weights.exact
        assert np.array_equal(by_hand.token_by_token(model, IDS), model.logits(IDS))


@pytest.mark.parametrize(
    "settings", [{}, {"fused": True, "activation": "gelu"}, {"gated": False, "activation": "relu2"}]
)
def test_odd_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    made = graph(branches(100, n_ff=173, **settings), width=100, scale=3.0)
    weights = by_hand.write(tmp_path / "m.gguf", made)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch) as model:
        check(model, by_hand.truth(made, weights, IDS), 5e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_hidden_values_that_blocks_do_not_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    """Gate and up are quantized; down, whose rows are no multiple of 32, is not."""
    made = graph(branches(n_ff=172, fused=fused))
    weights = by_hand.write(tmp_path / "m.gguf", made, "Q8_0")
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch) as model:
        check(model, by_hand.truth(made, weights, IDS), 0.04)
