"""Sparse attention: indexers, which the reference computes, and which a run stops before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.errors import ArgumentError, GGUFError, UnsupportedError
from gguflike.families.parts import Branch, Graph, Norm, Rope
from gguflike.families.parts.indexers import BlockIndexer, Indexer
from gguflike.frozen import replace
from gguflike.reference.formulas import Context, normalize, rotate
from gguflike.reference.indexers import chosen_blocks
from tests import by_hand
from tests.by_hand import IDS, WIDTH, attention, branches, graph, rms
from tests.measures import relative_error
from tests.test_latent import ROPE, latent


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


def in_blocks(top_k: int, **settings: Any) -> Graph:
    """A block with an indexer that chooses ``top_k`` blocks of three keys, for each of two groups of heads."""
    norms = (rms(f"indexer.{name}_norm", 32) for name in ("q", "k"))
    indexer = BlockIndexer(WIDTH, 2, 32, 3, top_k, 1, Rope(32, 500.0, "neox"), *norms)
    return graph((Branch(rms("attn_norm"), attention(indexer=indexer, **settings)), branches()[1]))


def test_an_indexer_of_blocks_chooses_nothing_of_few_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it of more in a run, which ends there; the reference goes on."""
    made = in_blocks(5)
    weights = by_hand.write(tmp_path / "m.gguf", made, attends=1.0)
    dense, sparse = (by_hand.truth(each, weights, IDS) for each in (made, in_blocks(2)))
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type="f32", context=None) as model:
        assert model.context == 15
        assert relative_error(model.logits(IDS), dense) < 2e-5
    with pytest.raises(ArgumentError, match=r"at most 15, .* an indexer chooses"):
        by_hand.load(tmp_path / "m.gguf", made, monkeypatch, context=16)
    assert np.allclose(sparse[:6], dense[:6])
    assert (abs(sparse - dense)[6:].max(axis=1) > 1e-5).any()


def test_blocks_that_an_indexer_chooses() -> None:
    """The query's own block always, and of those before it the one with the best key."""
    indexer = in_blocks(2).blocks[0][0].mixer.indexer
    rng = np.random.default_rng(4)
    weights = {tensor.role: rng.standard_normal(tensor.shape) for tensor in indexer.tensors()}
    x = rng.standard_normal((12, WIDTH))
    chosen = chosen_blocks(indexer, weights, x, np.tri(12, dtype=bool), Context(length=12))
    assert chosen.shape == (2, 12, 12)
    of_blocks = chosen.reshape(2, 12, 4, 3).any(axis=-1)
    for query in range(12):
        assert of_blocks[:, query, query // 3].all()
        assert (of_blocks[:, query].sum(axis=-1) == min(2, query // 3 + 1)).all()
        assert not chosen[:, query, query + 1 :].any()
    positions = np.arange(12)
    q = normalize(indexer.q_norm, weights, (x @ weights["indexer.q_proj.weight"].T).reshape(12, 2, 32))
    k = normalize(indexer.k_norm, weights, (x @ weights["indexer.k_proj.weight"].T)[:, None])
    q, k = (rotate(indexer.rope, each, positions, {}) for each in (q, k))
    best = np.einsum("hd,sd->hs", q[11], k[:9, 0]).reshape(2, 3, 3).max(axis=-1).argmax(axis=-1)
    assert of_blocks[[0, 1], 11, best].all()
