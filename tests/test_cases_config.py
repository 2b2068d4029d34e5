"""What config.json says of tensors that people have otherwise: biases, layers, sizes of the vocabulary, the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.convert import convert
from gguflike.errors import CheckpointError
from tests import tiny

TIED = {"tie_word_embeddings": True}


def folder(path: Path, tensors: dict[str, np.ndarray], without: tuple[str, ...] = (), **config: Any) -> Path:
    """A checkpoint of the tensors, whose config.json says something else; ``without`` some of its keys."""
    tiny.checkpoint(path, **config)
    (path / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({key: v for key, v in values.items() if key not in without}))
    return path


def refused(source: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(source, None, dry_run=True)


def test_biases_that_no_layer_has_are_zero(tmp_path: Path) -> None:
    """As in LLaMAfied Qwen, which has none of the output: Transformers makes them anew."""
    biases = {"attention_bias": True, **TIED}
    tensors = tiny.weights(tiny.config(**biases))
    less = {name: x for name, x in tensors.items() if not name.endswith("o_proj.bias")}
    plan = convert(folder(tmp_path / "a", less, **biases), tmp_path / "a.gguf", "F32")
    assert plan.notices == ("attn_output.bias is zero, as no tensor gives it: 2 tensors",)
    with gguflike.open(tmp_path / "a.gguf") as file:
        assert not file.tensors["blk.1.attn_output.bias"].dequantize().any()
        assert file.tensors["blk.1.attn_q.bias"].dequantize().any()
    one = {name: x for name, x in tensors.items() if name != "model.layers.1.self_attn.o_proj.bias"}
    refused(folder(tmp_path / "b", one, **biases), r"model.layers.1.self_attn.o_proj.bias': tensor is missing")


def test_biases_that_config_json_does_not_know_are_left_out(tmp_path: Path) -> None:
    """Also where it has InternLM's ``bias``, which LlamaForCausalLM of Transformers does not read."""
    tensors = tiny.weights(tiny.config(attention_bias=True, **TIED))
    plan = convert(folder(tmp_path / "a", tensors, bias=True, **TIED), tmp_path / "a.gguf", "F32")
    said, *left_out = plan.notices
    assert said == "bias True changes nothing: LlamaForCausalLM of Transformers does not read it"
    assert len(left_out) == 8
    assert all("_proj.bias is left out: config.json says the model does not use it" in each for each in left_out)


def test_more_layers_than_config_json_says(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config(**TIED))
    more = r"more layers than config.json says; expected num_hidden_layers 1; got 2 layers; set num_hidden_layers"
    refused(folder(tmp_path / "a", tensors, num_hidden_layers=1, **TIED), more)
    stray = {**tensors, "model.layers.0.self_attn.q_norm.weight": np.ones(8, "f4")}
    with pytest.raises(gguflike.UnsupportedError, match="10 tensors that no model of architecture llama has"):
        convert(folder(tmp_path / "b", stray, num_hidden_layers=1, **TIED), None, dry_run=True)


def test_fewer_layers_than_config_json_says(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config(**TIED))
    fewer = r"fewer layers than config.json says; expected layer 2; got 2 layers; .* num_hidden_layers of config.json"
    refused(folder(tmp_path / "a", tensors, num_hidden_layers=4, **TIED), fewer)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    refused(folder(tmp_path / "b", tensors, num_hidden_layers=4, **TIED), "up_proj.weight': tensor is missing")


def test_heads_of_an_odd_width(tmp_path: Path) -> None:
    """No part of Llama turns them, and no reader does."""
    config = {"head_dim": 9, **TIED}
    source = folder(tmp_path / "a", tiny.weights(tiny.config(**config)), **config)
    with pytest.raises(gguflike.UnsupportedError, match="cannot turn in pairs; expected an even number; got 9"):
        convert(source, None, dry_run=True)


def test_lists_of_longrope_of_another_length(tmp_path: Path) -> None:
    """One divisor for each pair of dimensions, checked before anything is written."""
    tensors = tiny.weights(tiny.config(**TIED))
    half = tiny.config()["hidden_size"] // tiny.config()["num_attention_heads"] // 2
    for number, (long, short, name) in enumerate(((half, half + 1, "short_factor"), (1, half, "long_factor"))):
        scaling = {"rope_type": "longrope", "long_factor": [2.0] * long, "short_factor": [1.0] * short}
        scaling["original_max_position_embeddings"] = 32
        source = folder(tmp_path / str(number), tensors, rope_scaling=scaling, **TIED)
        refused(source, rf"rope setting {name} has the wrong length; expected {half} numbers")


@pytest.mark.parametrize(("factor", "said"), [(2.0, True), (1.0, False), (1, False), (None, False)])
def test_a_factor_of_no_type_of_rotation(tmp_path: Path, factor: float | None, said: bool) -> None:
    """Transformers warns of it and computes without."""
    for number, settings in enumerate(({"rope_type": "default"}, {"type": "default"}, {})):
        scaling = {**settings, "factor": factor}
        source = folder(tmp_path / str(number), tiny.weights(tiny.config(**TIED)), rope_scaling=scaling, **TIED)
        notices = convert(source, None, dry_run=True).notices
        assert notices == (("rope factor 2.0 changes nothing: the rope_type is default",) if said else ())


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config(**TIED))
    rows = tensors["model.embed_tokens.weight"]
    grown = {**tensors, "model.embed_tokens.weight": np.concatenate([rows, rows[:2]])}
    said = r"expected \(260, 32\); got \(262, 32\); if the vocabulary was resized, set vocab_size in config.json to 262"
    refused(folder(tmp_path / "a", grown, **TIED), said)
    said = r"expected \(32000, 32\); got \(260, 32\); .*set vocab_size in config.json to 260"
    refused(folder(tmp_path / "b", tensors, without=("vocab_size",), **TIED), said)
    wide = {**tensors, "model.embed_tokens.weight": np.concatenate([rows, rows], 1)}
    refused(folder(tmp_path / "c", wide, **TIED), "the checkpoint is incomplete, or config.json belongs to another")


def test_no_head_where_config_json_does_not_tie_it(tmp_path: Path) -> None:
    """Transformers would make one at random."""
    tensors = tiny.weights(tiny.config(**TIED))
    said = r"lm_head.weight': tensor is missing; .*, or it is the embedding: .* tie_word_embeddings true"
    refused(folder(tmp_path / "a", tensors), said)
    refused(folder(tmp_path / "b", tensors, without=("tie_word_embeddings",)), said)


def test_unknown_keys_are_accepted_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny.checkpoint(tmp_path / "hf", max_sequence_length=2048, attn_implementation="sdpa", model_max_length=1)
    assert main(["convert", str(source), "-o", str(tmp_path / "m.gguf"), "--type", "F32"]) == 1
    said = capsys.readouterr().err
    assert "3 keys that LlamaForCausalLM is not known to have" in said
    flags = said[said.index("--ignore-config") :].split()
    assert set(flags[1].split(",")) == {"max_sequence_length", "attn_implementation", "model_max_length"}
    assert main(["convert", str(source), "-o", str(tmp_path / "m.gguf"), "--type", "F32", *flags]) == 0
    apart = [word for key in flags[1].split(",") for word in ("--ignore-config", key)]
    assert main(["convert", str(source), "-o", str(tmp_path / "n.gguf"), "--type", "F32", *apart]) == 0
