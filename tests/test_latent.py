"""Multi-head latent attention in the runner, against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Branch, Graph, Rope, Temperature
from gguflike.families.parts.latent import LatentAttention
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
