"""Multi-head latent attention in the runner, against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.errors import ArgumentError, GGUFError, UnsupportedError
from gguflike.families.parts import Branch, Graph, Norm, Rope, Temperature
from gguflike.families.parts.latent import Indexer, LatentAttention
from gguflike.frozen import replace
from tests import by_hand
from tests.by_hand import IDS, WIDTH, branches, graph, rms
from tests.measures import relative_error

ROPE = Rope(16, 10000.0, "norm")


def latent(**settings: Any) -> Graph:
    """A block with four heads of 32 + 16 dimensions, whose values have 48, on latents of 64."""
    rank = settings.pop("q_rank", 96)
    sizes = {"q_rank": rank, "kv_rank": 64, "nope_dim": 32, "rope_dim": 16, "value_dim": 48, **settings}
    norm = rms("attn_q_a_norm", rank) if rank else None
    mixer = LatentAttention(
        WIDTH, 4, **{"scale": 0.2, "rope": ROPE, **sizes}, kv_norm=rms("attn_kv_a_norm", sizes["kv_rank"]), q_norm=norm
    )
    return graph((Branch(rms("attn_norm"), mixer), branches()[1]))


GRAPHS = {
    "with a latent of queries": latent(),
    "without": latent(q_rank=0),
    "a query that grows": latent(temperature=Temperature(0.3, 4.0, 1.0)),
    "no rotation": latent(rope=None),
    "sizes that are not padded alike": latent(kv_rank=48, nope_dim=48, rope_dim=32, rope=Rope(32, 500.0, "norm")),
    "matrices kept together": latent(together=True, value_dim=32, rope_dim=32, rope=Rope(32, 500.0, "neox")),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_floats_equal_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = GRAPHS[name]
    weights = by_hand.write(tmp_path / "m.gguf", made, attends=1.0)
    want = by_hand.truth(made, weights, IDS)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type="f32") as model:
        for got in (model.logits(IDS), by_hand.in_pieces(model, IDS, (3, 1, 6)), by_hand.token_by_token(model, IDS)):
            assert relative_error(got, want) < 2e-5


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_quantized_weights_and_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_type: str) -> None:
    """A token's logits are the same bits, computed alone or with others."""
    made = latent()
    weights = by_hand.write(tmp_path / "m.gguf", made, "Q8_0")
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type=cache_type) as model:
        got = model.logits(IDS)
        assert relative_error(got, by_hand.truth(made, weights, IDS)) < 0.04
        assert model.weights.exact
        assert np.array_equal(by_hand.token_by_token(model, IDS), got)


def test_matrices_kept_together_are_read_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of keys are made anew as float32, so a token computed alone may differ in its last bits."""
    made = latent(together=True, value_dim=64)
    weights = by_hand.write(tmp_path / "m.gguf", made, "Q8_0", attends=1.0)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type="f32") as model:
        for got in (model.logits(IDS), by_hand.token_by_token(model, IDS)):
            assert relative_error(got, by_hand.truth(made, weights, IDS)) < 0.02
        assert not model.weights.exact


@pytest.mark.parametrize(
    "sizes", [{"nope_dim": 48}, {"value_dim": 48}, {"rope_dim": 16, "rope": Rope(16, 500.0, "neox")}]
)
def test_sizes_at_which_ops_cannot_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any]) -> None:
    made = latent(**{"together": True, "value_dim": 32, **sizes})
    by_hand.write(tmp_path / "m.gguf", made)
    with pytest.raises(UnsupportedError, match=r"expected a multiple of 32; got (48|16)"):
        by_hand.load(tmp_path / "m.gguf", made, monkeypatch)


def test_the_cache_holds_a_row_for_all_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = latent()
    by_hand.write(tmp_path / "m.gguf", made)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch) as model:
        assert model.states.nbytes == by_hand.CONTEXT * (64 + 16) * 2  # float16


def indexed(top_k: int, **settings: Any) -> Graph:
    """Two such blocks: an indexer of two heads chooses keys, and the second attends to the same ones."""
    norm = Norm("indexer.k_norm", 32, 1e-6, "layer", bias=True)
    indexer = Indexer(WIDTH, 96, 2, 32, top_k, ROPE, norm)
    first, second = (latent(indexer=replace(indexer, shared=shared), **settings) for shared in (False, True))
    return graph(first.blocks[0], second.blocks[0])


def test_an_indexer_chooses_nothing_of_few_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its tensors hold: the reference, which computes it, agrees with a run, which does not."""
    made = indexed(len(IDS))
    weights = by_hand.write(tmp_path / "m.gguf", made, attends=1.0)
    want = by_hand.truth(made, weights, IDS)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type="f32", context=len(IDS)) as model:
        assert relative_error(model.logits(IDS), want) < 2e-5
        assert relative_error(by_hand.token_by_token(model, IDS), want) < 2e-5


def test_an_indexer_chooses_of_more_keys(tmp_path: Path) -> None:
    """The first queries, with as many keys before them as are chosen, find what others find; later ones do not."""
    made = indexed(4)
    weights = by_hand.write(tmp_path / "m.gguf", made, attends=1.0)
    sparse, dense = (by_hand.truth(each, weights, IDS) for each in (made, indexed(len(IDS))))
    assert np.allclose(sparse[:4], dense[:4])
    assert (abs(sparse - dense)[4:].max(axis=1) > 1e-4).all()


def test_a_run_ends_where_an_indexer_would_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = indexed(8)
    by_hand.write(tmp_path / "m.gguf", made)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, context=None) as model:
        assert model.context == 8
        with pytest.raises(UnsupportedError, match=r"got 9; shorten the text: 8 are .* an indexer chooses"):
            model.logits(IDS[:9])
    with pytest.raises(ArgumentError, match=r"context: .* at most 8, .* an indexer chooses which ones"):
        by_hand.load(tmp_path / "m.gguf", made, monkeypatch, context=9)


@pytest.mark.parametrize("missing", ["indexer.proj.weight", "indexer.attn_k.weight"])
def test_an_indexer_is_checked_though_no_op_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    made = indexed(8)
    by_hand.write(tmp_path / "m.gguf", made, drop=f"blk.0.{missing}")
    with pytest.raises(GGUFError, match=f"blk.0.{missing}"):
        by_hand.load(tmp_path / "m.gguf", made, monkeypatch, context=8)
