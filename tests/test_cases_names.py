"""Names of tensors as people have them, of every class of models; and what stands beside the tensors of a model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.convert import convert, matching
from gguflike.convert.matching import is_tied, tied_or_not
from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families import registry
from gguflike.families.names import base_prefix, canonical_names, masked
from gguflike.families.parts import Tensor
from tests import tiny
from tests.interop.families.table import TABLE

ROWS = [
    row
    for row in TABLE.values()
    if (row.registered or row.model_class) in registry.CLASSES and row.architecture in registry.ARCHITECTURES
]


def family_of(row: Any) -> tuple[Any, Any]:
    config = {"architectures": [row.registered or row.model_class], **row.config}
    of_tensors = {key: [0.25, -0.5, 0.0, 1.0] for key in registry.for_config(config).small if "xielu" in key}
    family = registry.for_config({**config, **of_tensors})
    return family, family.from_config({**config, **of_tensors})[0]


def inside(wrapper: str) -> Callable[[str], str]:
    """The wrapper around the second module of a name, or around its last."""

    def wrapped(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{first}{dot}{wrapper}.{rest}"

    return wrapped


def base_layer(name: str) -> str:
    """As PEFT calls a matrix that had an adapter."""
    module, dot, suffix = name.rpartition(".")
    return f"{module}.base_layer{dot}{suffix}" if "proj" in name else name


WRAPPERS: dict[str, Callable[[str], str]] = {
    **{prefix: (lambda name, prefix=prefix: prefix + name) for prefix in (
        "_orig_mod.", "module.", "base_model.model.", "pretrained_model.", "module._orig_mod.", "_orig_mod.module.",
        "_forward_module.", "_fsdp_wrapped_module.", "llm.", "policy.actor.",
    )},
    "_orig_mod inside": inside("_orig_mod"),
    "_fsdp_wrapped_module inside": inside("_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module inside": inside("_checkpoint_wrapped_module"),
    "base_layer": base_layer,
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_wrappers_of_all_classes(row: Any) -> None:
    family, c = family_of(row)
    every = {piece.hf for binding in family.bind(c) for piece in binding.pieces}
    names = sorted({masked(name): name for name in every}.values())  # one of each layer and expert
    assert [name for name in names if not family.knows(name)] == []
    assert canonical_names(family, names) == {name: name for name in names}
    for what, wrapped in WRAPPERS.items():
        saved = {wrapped(name): name for name in names}
        assert canonical_names(family, saved) == saved, what
        both = {**saved, wrapped("score.weight"): "score.weight"}
        assert set(canonical_names(family, both)) == set(both)
    prefix = base_prefix(family)
    bare = {name.removeprefix(prefix): name for name in names}
    assert len(bare) == len(names)
    assert canonical_names(family, bare) == bare
    elsewhere = {prefix + name: name for name in names if not name.startswith(prefix)}
    assert canonical_names(family, {**elsewhere, **{name: name for name in names if name.startswith(prefix)}}) == {
        **elsewhere,
        **{name: name for name in names if name.startswith(prefix)},
    }
    assert canonical_names(family, {f"module.{name}": name for name in bare}) == {
        f"module.{name}": whole for name, whole in bare.items()
    }


@pytest.mark.parametrize("pattern", ["a{i}.{anchor}", "a{i}.x", "{deep}{i}.y", "{deep}{i}.{anchor}"])
def test_names_of_nothing_take_no_longer_the_more_they_are(pattern: str) -> None:
    """Those of 10,000 tensors that no model has, however many words they begin with, or have in common."""
    family, _ = family_of(ROWS[0])
    [anchor, *_] = family.hf_names(Tensor("token_embd.weight", ()))
    names = [pattern.format(i=i, anchor=anchor, deep="x." * 49) for i in range(10_000)]
    begun = time.process_time()
    assert len(canonical_names(family, names)) == len(names)
    assert not family.stands_beside(anchor)
    assert all(family.stands_beside(name) for name in names)
    assert time.process_time() - begun < 4


def checkpoint(folder: Path, renamed: Callable[[str], str], more: dict[str, np.ndarray] | None = None) -> Path:
    tiny.checkpoint(folder, tie_word_embeddings=True)
    tensors = tiny.weights(tiny.config(tie_word_embeddings=True)) | (more or {})
    saved = {renamed(name): x for name, x in tensors.items()}
    (folder / "model.safetensors").write_bytes(tiny.safetensors(saved))
    return folder


@pytest.mark.parametrize("what", ["_orig_mod.", "base_model.model.", "base_layer", "no prefix"])
def test_the_same_file_comes_of_it(what: str, tmp_path: Path) -> None:
    rename = WRAPPERS.get(what, lambda name: name.removeprefix("model."))
    for name, renamed in (("a", str), ("b", rename)):
        convert(checkpoint(tmp_path / name / "hf", renamed), tmp_path / f"{name}.gguf", "F32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


L = "model.layers.0.self_attn."
BUFFERS = (
    *(f"{L}rotary_emb.{name}" for name in ("inv_freq", "cos_cached", "sin_cached", "original_inv_freq")),
    *("model.rotary_emb.inv_freq", "rotary_emb.inv_freq", "model.position_ids", "model.rotary_emb_local.inv_freq"),
    *(f"{L}{name}" for name in ("masked_bias", "causal_mask", "total_ops", "rotary_pos_emb.inv_freq")),
    *("_orig_mod.model.rotary_emb.inv_freq", "freqs_cis", "model.layers.0.mlp._extra_state", "model.token_type_ids"),
)


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_no_weights(name: str, tmp_path: Path) -> None:
    plan = convert(checkpoint(tmp_path / "hf", str, {name: np.ones((1, 1, 8, 8), "f4")}), tmp_path / "m.gguf", "F32")
    assert plan.notices == ()


CACHE, ACTIVATIONS = "scales of a quantized KV cache", "scales of activations"
SCALES = {
    **{f"{L}{name}": CACHE for name in ("k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale", "v_zero_point")},
    **{f"{L}{name}": CACHE for name in ("prob_output_scale", "k_zero_point")},
    **{f"{L}{name}": CACHE for name in ("attn.k_scale", "k_proj.k_scale", "qkv_proj.v_scale", "k_proj.output_scale")},
    **{f"{L}q_proj.{name}": ACTIVATIONS for name in ("input_scale", "act_scale")},
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_scales_of_other_engines_are_left_out_and_said_so(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    plan = convert(checkpoint(tmp_path / "hf", str, {name: np.ones(shape, "f4")}), tmp_path / "m.gguf", "F32")
    assert plan.notices == (f"{SCALES[name]} are left out: 1 tensor",)


def test_what_stands_beside_a_model_is_left_out_and_said_so(tmp_path: Path) -> None:
    """Heads of training, a second model: modules that the class does not have. Within its own, nothing is unknown."""
    beside = {"v_head.summary.weight": np.ones((1, 32), "f4"), "v_head.summary.bias": np.ones(1, "f4")}
    beside |= {"score.weight": np.ones((2, 32), "f4"), "ema.decay": np.ones((), "f4")}
    plan = convert(checkpoint(tmp_path / "a", str, beside), tmp_path / "m.gguf", "F32")
    assert set(plan.notices) == {
        "v_head is left out, which no model of architecture llama has: 2 tensors",
        "score is left out, which no model of architecture llama has: 1 tensor",
        "ema is left out, which no model of architecture llama has: 1 tensor",
    }
    for name in ("model.layers.0.self_attn.q_norm.weight", "model.embed_scale", "lm_head.scale"):
        with pytest.raises(UnsupportedError, match="1 tensor that no model of architecture llama has"):
            convert(checkpoint(tmp_path / "b", str, {name: np.ones(8, "f4")}), None, dry_run=True)


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    norm = tiny.weights(tiny.config())["model.norm.weight"]
    folder = checkpoint(tmp_path / "a", str, {"_orig_mod.model.norm.weight": norm, "norm.weight": norm})
    assert convert(folder, tmp_path / "m.gguf", "F32").notices == ()
    for other in (norm + np.float32(1), np.ones(33, "f4")):
        folder = checkpoint(tmp_path / "b", str, {"_orig_mod.model.norm.weight": other})
        with pytest.raises(
            CheckpointError, match=r"two tensors of the checkpoint stand for one of the model, and diff"
        ):
            convert(folder, None, dry_run=True)


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("kept", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_tied_matrix_under_either_name(metadata: bool, kept: str, tmp_path: Path) -> None:
    """safetensors' save_model stores one of the two, and notes in ``__metadata__`` which it stands for."""
    other = ({"lm_head.weight", "model.embed_tokens.weight"} - {kept}).pop()
    folder = checkpoint(tmp_path / "hf", lambda name: kept if "embed" in name else name)
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= {other: kept} if metadata else {}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    convert(folder, tmp_path / "m.gguf", "F32")
    found = tiny.gguf_tensors(tmp_path / "m.gguf")
    want = tiny.weights(tiny.config(tie_word_embeddings=True))["model.embed_tokens.weight"]
    np.testing.assert_array_equal(found["token_embd.weight"].data, want)
    assert "output.weight" not in found


def test_what_is_missing_and_what_is_there_instead(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", lambda name: name.replace("self_attn", "attention"))
    with pytest.raises(
        CheckpointError, match=r"layers.0.self_attn.q_proj.weight': tensor is missing; .*got names such"
    ) as e:
        convert(folder, None, dry_run=True)
    assert "model.layers.0.attention.q_proj.weight" in str(e.value)
    folder = tiny.checkpoint(tmp_path / "b", tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(tiny.config()))
    with pytest.raises(CheckpointError, match=r"'lm_head.weight': tensor is missing") as e:
        convert(folder, None, dry_run=True)
    assert "config.json should say tie_word_embeddings true" in str(e.value)


class Held:
    """A tensor of which only the name counts."""

    def __init__(self, name: str) -> None:
        self.name = name


TIED = [row for row in ROWS if is_tied(family_of(row)[0].graph(family_of(row)[1]))]


@pytest.mark.parametrize("row", TIED, ids=[row.name for row in TIED])
def test_what_is_stored_tells_what_is_tied(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every class that ties: a matrix that differs is kept, one that is the same or missing is not needed."""
    family, c = family_of(row)
    head, embedding = (family.hf_names(Tensor(role, ()))[0] for role in ("output.weight", "token_embd.weight"))
    both = {head: Held(head), embedding: Held(embedding)}
    for same in (True, False):
        monkeypatch.setattr(matching, "same_values", lambda *_, same=same: same)
        config, tensors, notices = tied_or_not(family, c, both)
        assert is_tied(family.graph(config)) == same
        assert (tensors, len(notices)) == (both, 0 if same else 1)
        bound = {binding.gguf for binding in family.bind(config)}
        assert ("output.weight" in bound) == (not same)
    for name in (head, embedding):
        config, tensors, notices = tied_or_not(family, c, {name: both[name]})
        assert (config, list(tensors), notices) == (c, [embedding], [])


def test_classes_that_tie_are_among_them() -> None:
    assert len(TIED) > 20
    assert {"gemma3", "command-r", "qwen3"} <= {row.architecture for row in TIED}
