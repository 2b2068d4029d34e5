"""A file is obeyed whole, or refused: keys and tensors that would change the result and that nothing reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike import runner
from gguflike.container.metadata import Metadata
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.families import registry
from gguflike.families.parts import Norm
from tests import by_hand, naive_model, tiny_gguf
from tests.by_hand import IDS
from tests.measures import relative_error

ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    "extra",
    [
        {"logit_scale": 0.5},
        {"embedding_scale": 3.0},
        {"attention.scale": 0.9},
        {"attn_logit_softcapping": 5.0},
        {"attention.clamp_kqv": 0.5},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scaling.yarn_log_multiplier": 0.1},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.yarn_ext_factor": 0.5},
        {"attention.value_length": 16},
        {"attention.causal": False},
        {"a_new_idea": 1.0},
    ],
    ids=lambda extra: list(extra)[-1],
)
def test_keys_that_change_the_result_are_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", extra=extra)
    with pytest.raises(UnsupportedError, match=rf"llama.{list(extra)[-1]}: the file asks for what"):
        runner.load(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "extra", [{"logit_scale": 1.0}, {"attention.scale": 0.0}, {"tensor_data_layout": "Meta AI original pth"}]
)
def test_keys_that_change_nothing_are_read_over(tmp_path: Path, extra: dict[str, Any]) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", extra=extra)
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(IDS), naive_model.forward(weights, h, IDS)) < 2e-4


@pytest.mark.parametrize(
    "name", ["blk.0.attn_norm.scale", "blk.1.attn_q_norm.weight", "blk.2.attn_q.weight", "rope_freqs_long.weight"]
)
def test_tensors_that_nothing_reads_are_refused(tmp_path: Path, name: str) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", tensors={name: ONE})
    with pytest.raises(UnsupportedError, match=f"{name}.*no part of the model reads"):
        runner.load(tmp_path / "m.gguf")


def test_old_frequencies_are_read_over(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", tensors={"blk.0.attn_rot_embd": ONE})
    with runner.load(tmp_path / "m.gguf") as model:
        assert model.logits([1]).shape == (1, tiny_gguf.TOKENS)


@pytest.mark.parametrize("scaled", ["rope.scaling.factor", "rope.scale_linear"])
def test_positions_are_stretched_linearly_unless_a_file_says_how(tmp_path: Path, scaled: str) -> None:
    logits = []
    for name, extra in (("a", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}), ("b", {scaled: 4.0})):
        tiny_gguf.write(tmp_path / name, extra=extra)
        with runner.load(tmp_path / name) as model:
            logits.append(model.logits(IDS))
    assert np.array_equal(*logits)


@pytest.mark.parametrize("roles", [("attn_q", "attn_k"), ("attn_output",), ("ffn_down",), ("ffn_gate", "attn_v")])
def test_each_bias_is_there_or_not(tmp_path: Path, roles: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    rows = {"attn_q": 128, "attn_k": 64, "attn_v": 64, "attn_output": 64, "ffn_gate": 96, "ffn_down": 64}
    biases = {f"blk.1.{role}.bias": rng.standard_normal(rows[role]).astype(np.float32) for role in roles}
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", tensors=biases)
    with runner.load(tmp_path / "m.gguf") as model:
        got = model.logits(IDS)
    assert relative_error(got, naive_model.forward(weights, h, IDS)) < 2e-4
    assert relative_error(got, naive_model.forward({**weights, **{n: 0 * b for n, b in biases.items()}}, h, IDS)) > 0.01


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    """The file counts three layers, of which the last is none that a text goes through."""
    tensors = {f"blk.2.nextn.{role}.weight": ONE for role in ("eh_proj", "enorm", "hnorm")}
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", tensors=tensors, nextn=1)
    with runner.load(tmp_path / "m.gguf") as model:
        assert relative_error(model.logits(IDS), naive_model.forward(weights, h, IDS)) < 2e-4


@pytest.mark.parametrize("stated", [None, 200, 332])
def test_ids_without_text_do_not_end_a_stream(tmp_path: Path, stated: int | None) -> None:
    """A file may have rows behind its tokens, or count fewer tokens than it has."""
    rows = stated if stated and stated > tiny_gguf.TOKENS else tiny_gguf.TOKENS
    tiny_gguf.write(tmp_path / "m.gguf", rows=rows, vocab_size=stated)
    with runner.load(tmp_path / "m.gguf") as model:
        assert model.vocab_size == rows
        result = model.generate([1, 2, 3], max_tokens=60, temperature=50.0, seed=2).result()
        assert len(result.tokens) > 30
        assert (max(result.tokens) >= tiny_gguf.TOKENS) == (rows > tiny_gguf.TOKENS)


def test_positions_end_where_their_table_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = by_hand.graph(positions=12, norm=Norm("output_norm", by_hand.WIDTH, 1e-5))
    by_hand.write(tmp_path / "m.gguf", made)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch) as model:
        assert model.context == 12
    with pytest.raises(UnsupportedError, match=r"context.*at most 12, the positions.*got 13"):
        by_hand.load(tmp_path / "m.gguf", made, monkeypatch, context=13)


def test_a_missing_matrix_is_missing_and_no_bias(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", drop="blk.0.ffn_up.weight")
    with pytest.raises(GGUFError, match=r"blk\.0\.ffn_up\.weight.*missing"):
        runner.load(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", ["adapter", "mmproj"])
def test_what_is_no_model_is_called_so(tmp_path: Path, kind: str) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", kind_of_file=kind)
    with pytest.raises(GGUFError, match=f"general.type: the file is no model; expected model; got {kind}"):
        runner.load(tmp_path / "m.gguf")


def test_a_vocabulary_is_no_model(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    tiny_gguf.metadata(writer, tiny_gguf.SMALL)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match="a vocabulary at most"):
        runner.load(tmp_path / "m.gguf")


def test_what_a_file_asks_for_is_read_without_its_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are the largest part of a header, and a start would wait for them to be decoded."""
    tiny_gguf.write(tmp_path / "m.gguf")
    with gguflike.open(tmp_path / "m.gguf") as file:
        asked: list[str] = []
        whole = Metadata.__getitem__

        def recorded(metadata: Metadata, key: str) -> Any:
            asked.append(key)
            return whole(metadata, key)

        monkeypatch.setattr(Metadata, "__getitem__", recorded)
        registry.for_gguf("llama").from_file(file.metadata, file.infos.keys())
    assert "llama.block_count" in asked
    assert not [key for key in asked if key.startswith("tokenizer.")]
