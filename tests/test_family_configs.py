"""The configuration of every class of models, from config.json to GGUF's keys and back, and to config.json and back."""

from __future__ import annotations

import math
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.checkpoint import LazyTensor
from gguflike.convert.slabs import read_slab, slabs
from gguflike.convert.sources import CheckpointSource, MadeSource, ranges
from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families import config as configs
from gguflike.families import demands, kinds, registry, rope, rope_settings
from gguflike.families.parts import Attention, Rope, role_of
from gguflike.families.transforms import Share
from tests.interop.families.table import TABLE

ROWS = [
    row
    for row in TABLE.values()
    if (row.registered or row.model_class) in registry.CLASSES and row.architecture in registry.ARCHITECTURES
]
# Bamba's heads turn in part, which the class that a file of its architecture is exported as does not have.
NOT_EXPORTED = {"BambaForCausalLM"}


def read(config: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    family = registry.for_config(config)
    return family, *family.from_config(config)


def as_read(row: Any) -> dict[str, Any]:
    """config.json of a row."""
    return {"architectures": [row.registered or row.model_class], **row.config}


def plain(**changes: Any) -> dict[str, Any]:
    """config.json of a small decoder."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {**sizes, "vocab_size": 384, "max_position_embeddings": 512, "head_dim": 16, **changes}


def differences(config: type, one: Any, other: Any) -> list[str]:
    """The fields in which two configurations differ beyond what a float32 keeps, but for those that only tensors of a
    file tell."""
    found = []
    for parameter in configs.parameters(config):
        a, b = getattr(one, parameter.name), getattr(other, parameter.name)
        same = math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b
        if not same and (parameter.key.tensor is None or parameter.key.gguf is not None):
            found.append(parameter.name)
    return found


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_configurations_survive_gguf_and_config(row: Any) -> None:
    config = as_read(row)
    of_tensors = {key: [0.25, -0.5, 0.0, 1.0] for key in registry.for_config(config).small if "xielu" in key}
    family, c, _ = read({**config, **of_tensors})
    assert demands.broken(family.name, family.graph(c)) == []  # llama.cpp runs all of them
    metadata = configs.to_metadata(c, family.name)
    metadata["tokenizer.ggml.tokens"] = ["x"] * c.n_vocab  # which stands for a key of the vocabulary's size
    names = {binding.gguf for binding in family.bind(c)}
    assert len(names) > c.n_layer
    unsaid = {p.name for p in configs.parameters(family.config) if p.key.gguf is None}  # `recover` reads it of tensors
    again = configs.from_gguf(family.config, family.name, metadata, names)
    assert set(differences(family.config, c, again)) <= unsaid
    if row.name in NOT_EXPORTED:
        return
    exported = family.to_config(c)
    other, back, _ = read(exported)
    if other is family:
        # of the magnitude of YaRN an export gives the result, where config.json had what it is made from
        assert set(differences(family.config, c, back)) <= {"classifier_pooling", "yarn_attn_factor"}
    else:  # a model that only reads is exported as one, whose graph is the same
        assert [type(step) for block in other.graph(back).blocks for step in block] == [
            type(step) for block in family.graph(c).blocks for step in block
        ]


@pytest.mark.parametrize(
    "row", {registry.for_config(as_read(row)).name: row for row in ROWS}.values(), ids=lambda r: r.name
)
def test_keys_that_say_nothing_are_errors_or_taken_for_missing(row: Any) -> None:
    """A null where a family computes with the value is told of as one."""
    for key in kinds.KINDS:
        with suppress(CheckpointError, UnsupportedError):
            read({**as_read(row), key: None})


def tensor(path: Path, name: str, shape: tuple[int, ...]) -> tuple[LazyTensor, np.ndarray]:
    """A checkpoint's tensor of random values, appended to a file, and the values."""
    values = np.random.default_rng(len(name)).standard_normal(shape, np.float32)
    with path.open("ab") as file:
        offset = file.tell()
        file.write(values.tobytes())
    return LazyTensor(name, "F32", shape, str(path), offset, offset + values.nbytes), values


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_tensors_are_the_same_in_slabs_and_in_other_processes(row: Any, tmp_path: Path) -> None:
    """Of every role of a class: read in the smallest slabs, by a copy that a worker of an executor would get; and each
    piece comes back as it was, in slabs, too."""
    config = as_read(row)
    of_tensors = {key: [0.25, -0.5, 0.0, 1.0] for key in registry.for_config(config).small if "xielu" in key}
    family, c, _ = read({**config, **of_tensors})
    roles = {role_of(binding.gguf)[0]: binding for binding in family.bind(c)}
    for binding in roles.values():
        if binding.make is not None:
            made = MadeSource(binding.gguf, binding.shape, binding.make)
            want = made.read(0, binding.shape[0], math.inf)
            assert want.shape == binding.shape
            assert np.array_equal(pickle.loads(pickle.dumps(made)).read(0, binding.shape[0], math.inf), want)
            continue
        if binding.pieces[0].packed:
            continue
        stored = [tensor(tmp_path / binding.gguf, piece.hf, piece.hf_shape) for piece in binding.pieces]
        size = (tmp_path / binding.gguf).stat().st_size
        pieces = tuple((replace(t, file_bytes=size), p) for (t, _), p in zip(stored, binding.pieces, strict=True))
        source = CheckpointSource(binding.gguf, binding.shape, pieces)
        want = source.read(0, binding.shape[0], math.inf)
        assert want.shape == binding.shape
        copy = pickle.loads(pickle.dumps(source))
        smallest = [read_slab(copy, slab, math.inf, compiled=False).ravel() for slab in slabs(copy, 1)]
        assert np.array_equal(np.concatenate(smallest), want.ravel())
        first = 0
        for (_, values), piece in zip(stored, binding.pieces, strict=True):
            rows, first = want[first : first + piece.rows], first + piece.rows
            if isinstance(piece.via, Share):
                continue  # which comes back with the others
            places = ranges(0, piece.rows, binding.shape[1:], piece.via.group, 1)
            back = np.concatenate([piece.via.undo(rows[a] if piece.stacked else rows[a:b]) for a, b in places])
            original = values[piece.start : piece.start + piece.hf_rows]
            np.testing.assert_allclose(back, original, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_row_of_a_checkpoint_has_one_place(row: Any) -> None:
    """The pieces of all tensors of a file cover each tensor of the checkpoint, without a gap and without overlap."""
    config = as_read(row)
    of_tensors = {key: [0.25, -0.5, 0.0, 1.0] for key in registry.for_config(config).small if "xielu" in key}
    family, c, _ = read({**config, **of_tensors})
    rows: dict[str, int] = {}
    runs: dict[str, list[tuple[int, int]]] = {}
    shares: dict[str, list[Share]] = {}
    for piece in (piece for binding in family.bind(c) for piece in binding.pieces):
        assert rows.setdefault(piece.hf, piece.hf_shape[0]) == piece.hf_shape[0]
        if isinstance(piece.via, Share):
            shares.setdefault(piece.hf, []).append(piece.via)
        else:
            runs.setdefault(piece.hf, []).append((piece.start - piece.unused, piece.start + piece.hf_rows))
    for name, places in runs.items():
        begins, ends = zip(*sorted(places), strict=True)
        assert (*begins, rows[name]) == (0, *ends)
    for vias in shares.values():
        assert sorted(via.index for via in vias) == list(range(vias[0].of))
    assert not runs.keys() & shares.keys()


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("settings", "magnitude"),
    [
        ({}, 1 + 0.1 * math.log(4)),
        ({"attention_factor": 1.5}, 1.5),
        ({"attn_factor": 1.25}, 1.25),
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, 1.0),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (1 + 0.2 * math.log(4)) / (1 + 0.1 * math.log(4))),
        ({"mscale": 0.7}, 1 + 0.1 * math.log(4)),  # Transformers wants both
    ],
)
def test_the_magnitude_of_yarn(settings: dict[str, Any], magnitude: float) -> None:
    """By the rule of _compute_yarn_parameters; and as llama.cpp multiplies: 1 + 0.1 ln(factor), times attn_factor."""
    family, c, _ = read(plain(architectures=["LlamaForCausalLM"], rope_theta=1e4, rope_scaling=YARN | settings))
    [turned] = family.graph(c).ropes()
    assert rope.frequencies(turned)[1] == pytest.approx(magnitude)
    factor = configs.to_metadata(c, "llama").get("llama.rope.scaling.attn_factor", 1.0)
    assert factor * rope.yarn_magnitude(4.0) == pytest.approx(magnitude)
    _, again, _ = read(family.to_config(c))
    [exported] = family.graph(again).ropes()
    assert rope.frequencies(exported)[1] == pytest.approx(magnitude)


def test_yarn_without_a_factor_takes_the_ratio_of_the_contexts() -> None:
    scaling = {"type": "yarn", "original_max_position_embeddings": 128}
    _, c, _ = read(plain(architectures=["LlamaForCausalLM"], rope_scaling=scaling))
    assert c.rope_factor == 4.0
    # what stands beside the settings counts first, as in Transformers
    beside = {"original_max_position_embeddings": 256, "rope_scaling": scaling}
    assert read(plain(architectures=["LlamaForCausalLM"], **beside))[1].rope_factor == 2.0


def test_types_of_layers_may_turn_differently() -> None:
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    flat = {
        "rope.theta": 1e6,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "rope.sliding.theta": 1e4,
    }
    assert rope_settings.flatten({"rope_parameters": nested}) == flat
    older = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"type": "linear", "factor": 8.0},
    }
    assert rope_settings.flatten(older) == flat
    assert rope_settings.unflatten(flat) == {"rope_parameters": nested}
    with pytest.raises(UnsupportedError, match=r"rope\.sliding\.theta: rope setting that models of this class"):
        read(plain(architectures=["LlamaForCausalLM"], **older))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"rope_type": "longrope", "short_factor": 1.0, "long_factor": [1.0]},
            CheckpointError,
            "short_factor: wrong kind of value; expected a list of numbers",
        ),
        ({"rope_type": "longrope", "short_factor": [0.0], "long_factor": [1.0]}, CheckpointError, "not a positive"),
        ({"rope_type": "default", "mrope_section": 3}, CheckpointError, "mrope_section: wrong kind of value"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, UnsupportedError, "rope.sections"),
        ({"rope_type": "default", "low_freq_factor": 1.0}, UnsupportedError, "low_freq_factor with type default"),
        ({"rope_type": "proportional"}, UnsupportedError, "rope.proportional.share"),
        ({"rope_type": "yarn", "factor": 2.0, "extrapolation_factor": 0.5}, UnsupportedError, "extrapolation_factor"),
    ],
)
def test_rope_settings_that_llama_does_not_have(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(plain(architectures=["LlamaForCausalLM"], rope_parameters=settings))


def windows(family: Any, c: Any) -> list[int]:
    return [attention.window for attention in family.graph(c).attentions()]


def test_layers_with_windows_in_every_spelling() -> None:
    gemma = {"architectures": ["Gemma3ForCausalLM"], "sliding_window": 16, "query_pre_attn_scalar": 16}
    types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    family, c, notices = read(plain(**gemma, layer_types=types))
    assert windows(family, c) == [16, 0, 16, 0]
    assert configs.to_metadata(c, "gemma3")["gemma3.attention.sliding_window_pattern"] == [True, False, True, False]
    assert "llama.cpp takes every 6th layer" in notices[0]
    assert [attention.rope.base for attention in family.graph(c).attentions()] == [1e4, 1e6, 1e4, 1e6]  # type: ignore[union-attr]
    assert read(plain(**gemma, sliding_window_pattern=2))[1] == c
    by_period = {**configs.to_metadata(c, "gemma3"), "gemma3.attention.sliding_window_pattern": 2}
    assert configs.from_gguf(family.config, "gemma3", by_period, ()) == c
    family, c, notices = read(plain(**gemma))
    assert "gemma3.attention.sliding_window_pattern" not in configs.to_metadata(c, "gemma3")  # which it implies
    assert windows(family, c) == [16] * 4
    assert not notices
    assert windows(*read(plain(**gemma, sliding_window_pattern=1))[:2]) == [0] * 4
    with pytest.raises(CheckpointError, match="layer_types: wrong kind of value; expected a list of sliding_attention"):
        read(plain(**gemma, layer_types=["chunked_attention"] * 4))
    with pytest.raises(CheckpointError, match="not one value for each layer"):
        read(plain(**gemma, layer_types=types[:3]))


@pytest.mark.parametrize(
    ("changes", "full"),
    [
        ({"first_k_dense_replace": 1}, [0, 4, 8]),
        ({"first_k_dense_replace": 2, "sliding_window_pattern": 3}, [0, 1, 4, 7]),
        ({}, [3, 7]),
        ({"first_k_dense_replace": 1, "layer_types": ["sliding_attention"] * 8 + ["full_attention"]}, [8]),
    ],
    ids=str,
)
def test_layers_of_cohere_with_experts_that_see_everything(changes: dict[str, Any], full: list[int]) -> None:
    """As Cohere2MoeConfig has them where ``layer_types`` is missing."""
    [row] = [row for row in ROWS if row.model_class == "Cohere2MoeForCausalLM"]
    config = {key: value for key, value in row.config.items() if key not in ("layer_types", "mlp_layer_types")}
    _, c, _ = read({"architectures": [row.model_class], **config, "num_hidden_layers": 9, **changes})
    assert [layer for layer in range(9) if not c.windowed[layer]] == full
    assert c.n_dense == changes.get("first_k_dense_replace", 0)


def test_layers_whose_kinds_config_json_lacks() -> None:
    """As the classes of Transformers have it there is no window in Mellum, and no attention in Granite 4."""
    for row in ROWS:
        config = {"architectures": [row.model_class], **row.config}
        config.pop("layer_types", None)
        if row.model_class == "MellumForCausalLM":
            assert not any(read(config)[1].windowed)
        if row.name == "GraniteMoeHybridForCausalLM":
            assert not any(read(config)[1].n_head_kv)


def test_the_rotation_of_phi_3_5_moe_has_one_magnitude() -> None:
    """It says it twice, for short contexts and for long ones: alike, or GGUF has no place for it."""
    lists = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 64}
    phimoe = plain(architectures=["PhimoeForCausalLM"], num_local_experts=4)

    def said(short: Any, long: Any) -> dict[str, Any]:
        return {**phimoe, "rope_scaling": {"type": "longrope", **lists, "short_mscale": short, "long_mscale": long}}

    family, c, notices = read(said(1.25, 1.25))
    assert c.rope_attn_factor == 1.25
    assert configs.to_metadata(c, "phimoe")["phimoe.rope.scaling.attn_factor"] == 1.25
    assert read(family.to_config(c))[1] == c
    assert "plain softmax" in notices[0]
    with pytest.raises(UnsupportedError, match=r"two magnitudes.*; got 1.25 and 1.5"):
        read(said(1.25, 1.5))
    with pytest.raises(UnsupportedError, match=r"num_experts_per_tok.*expected 2; got 3"):
        read({**phimoe, "num_experts_per_tok": 3})


def test_qwen_has_its_window_where_it_is_switched_on() -> None:
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "max_window_layers": 2}
    assert windows(*read(plain(**qwen))[:2]) == [0] * 4
    family, c, notices = read(plain(**qwen, use_sliding_window=True))
    assert windows(family, c) == [0, 0, 32, 32]
    assert "beyond 32 tokens it computes otherwise" in notices[0]
    assert read(family.to_config(c))[1] == c


def test_scores_of_gemma_are_scaled_as_the_file_says() -> None:
    gemma = plain(architectures=["Gemma3ForCausalLM"], num_key_value_heads=2)
    family, c, notices = read(gemma | {"query_pre_attn_scalar": 16})
    assert c.attention_scale == 0.25
    assert not notices
    assert "gemma3.attention.scale" not in configs.to_metadata(c, "gemma3")  # what llama.cpp computes
    family, c, notices = read(gemma | {"query_pre_attn_scalar": 64})
    assert {attention.scale for attention in family.graph(c).attentions()} == {0.125}
    assert configs.to_metadata(c, "gemma3")["gemma3.attention.scale"] == 0.125
    assert "llama.cpp multiplies scores by 0.25, this model by 0.125" in notices[0]
    assert family.to_config(c)["query_pre_attn_scalar"] == 64


def test_a_share_of_the_head_turns() -> None:
    glm = plain(architectures=["Glm4ForCausalLM"], head_dim=80)
    family, c, _ = read(glm | {"partial_rotary_factor": 0.4})
    assert c.n_rot == 32
    assert read(family.to_config(c))[1].n_rot == 32
    assert read(glm)[1].n_rot == 40  # Glm4Config's default
    with pytest.raises(UnsupportedError, match="partial_rotary_factor"):
        read(plain(architectures=["LlamaForCausalLM"], partial_rotary_factor=0.5))


def test_layers_that_turn_nothing() -> None:
    family, c, notices = read(plain(architectures=["SmolLM3ForCausalLM"], no_rope_layers=[1, 0, 1, 1]))
    assert [type(attention.rope) for attention in family.graph(c).attentions()] == [Rope, type(None), Rope, Rope]
    assert configs.to_metadata(c, "smollm3")["smollm3.attention.rope_pattern"] == [True, False, True, True]
    assert "all layers but every fourth" in notices[-1]
    family, c, notices = read(plain(architectures=["SmolLM3ForCausalLM"]))
    assert "smollm3.attention.rope_pattern" not in configs.to_metadata(c, "smollm3")
    assert not notices
    assert [isinstance(a, Attention) and a.rope is None for a in family.graph(c).attentions()] == [False] * 3 + [True]


def test_bases_of_the_rotation_that_config_json_lacks() -> None:
    """The defaults of the classes of Transformers (``default_theta``)."""
    cohere = plain(architectures=["CohereForCausalLM"])
    assert read(cohere)[1].rope_base == 5e5
    assert read(cohere | {"rope_theta": 1e4})[1].rope_base == 1e4
    assert read(cohere | {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}})[1].rope_base == 2e4
    assert read(plain(architectures=["LlamaForCausalLM"]))[1].rope_base == 1e4
    assert read(plain(architectures=["Gemma3ForCausalLM"]))[1].rope_base == 1e6


def test_what_gemma_multiplies_embeddings_by() -> None:
    for row in ROWS:
        if row.model_class in ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma4ForCausalLM"):
            family, c, _ = read({"architectures": [row.model_class], **row.config})
            assert family.graph(c).embedding.scale == pytest.approx(math.sqrt(c.n_embd))


def test_which_layers_of_gemma_4_share_keys() -> None:
    """The last so many layers read those of the last layer of their kind before them."""
    kinds = ["sliding_attention", "full_attention"] * 4
    sizes = {"num_hidden_layers": 8, "layer_types": kinds, "num_kv_shared_layers": 4, "head_dim": 16}
    sizes["vocab_size_per_layer_input"] = 384
    family, c, _ = read(plain(architectures=["Gemma4ForCausalLM"], global_head_dim=32, **sizes))
    assert [each.kv_layer for each in family.graph(c).attentions()] == [None] * 4 + [2, 3] * 2
    for shared in (8, 9):
        family, c, _ = read(plain(architectures=["Gemma4ForCausalLM"], **{**sizes, "num_kv_shared_layers": shared}))
        with pytest.raises(UnsupportedError, match="num_kv_shared_layers: a layer without keys and values of its own"):
            family.graph(c)


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ({}, "FFFF"),
        ({"index_topk_freq": 2}, "FFSF"),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, "FFFS"),
        ({"index_topk_pattern": "FSSF", "index_topk_freq": 2}, "FSSF"),
        ({"index_topk_pattern": ["full", "full", "shared", "full"]}, "FFSF"),
        ({"indexer_types": ["full", "shared", "shared", "full"], "index_topk_pattern": "FFFF"}, "FSSF"),
    ],
)
def test_which_layers_of_glm_5_have_an_indexer(said: dict[str, Any], kinds: str) -> None:
    """As GlmMoeDsaConfig of transformers says it: a list, a pattern, or every so many layers behind an offset."""
    of = {"architectures": ["GlmMoeDsaForCausalLM"], "head_dim": 64}
    family, c, _ = read(plain(**of, **said, n_routed_experts=8, first_k_dense_replace=1))
    assert ["FS"[not own] for own in c.indexed] == list(kinds)
    names = {binding.gguf for binding in family.bind(c)}
    assert [f"blk.{layer}.indexer.attn_k.weight" in names for layer in range(4)] == list(c.indexed)


@pytest.mark.parametrize(
    "said", [{"index_topk_pattern": "FXSF"}, {"indexer_types": ["shared"] * 4}, {"index_topk_freq": "2"}]
)
def test_indexers_that_nobody_has(said: dict[str, Any]) -> None:
    of = {"architectures": ["GlmMoeDsaForCausalLM"], "head_dim": 64}
    with pytest.raises(CheckpointError, match="wrong kind of value"):
        read(plain(**of, **said, n_routed_experts=8, first_k_dense_replace=1))


def test_layers_of_glm_5_where_a_file_does_not_say() -> None:
    """GLM 5.2, with its longer context, has an indexer in every fourth layer, older ones have one in each."""
    of = {"architectures": ["GlmMoeDsaForCausalLM"], "head_dim": 64}
    for context, expected in ((1 << 20, [0, 1, 2, 6]), (202752, list(range(8)))):
        config = {**plain(**of, n_routed_experts=8), "num_hidden_layers": 8, "max_position_embeddings": context}
        family, c, _ = read(config)
        metadata = configs.to_metadata(c, family.name)
        del metadata["glm-dsa.attention.indexer.types"]
        metadata["tokenizer.ggml.tokens"] = ["x"] * c.n_vocab
        again = family.from_file(metadata, set())
        assert [layer for layer, own in enumerate(again.indexed) if own] == expected


def test_scales_of_minicpm_3() -> None:
    """GGUF has those of the published model only by their absence, as llama.cpp, which reads none, takes them."""
    of = {
        "architectures": ["MiniCPM3ForCausalLM"],
        "qk_rope_head_dim": 32,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
    }
    family, c, notices = read(plain(**of))
    assert (c.embedding_scale, c.residual_scale, c.logit_scale) == (12.0, 0.7, 0.25)
    assert not notices
    assert not {key for key in configs.to_metadata(c, family.name) if key.endswith("_scale")}
    none = {"scale_emb": 1, "scale_depth": None, "dim_model_base": None}
    family, c, notices = read(plain(**of, **none))
    assert (c.embedding_scale, c.residual_scale, c.logit_scale) == (1.0, 1.0, 1.0)
    assert "llama.cpp takes scale_emb 12, scale_depth 1.4 and dim_model_base 256" in notices[0]
    again = family.to_config(c)
    assert (again["scale_emb"], again["scale_depth"], again["dim_model_base"]) == (1.0, 2.0, 64)
    with pytest.raises(CheckpointError, match="expected 4, num_attention_heads"):
        read(plain(**{**of, "num_key_value_heads": 2}))


M3 = {
    "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
    "head_dim": 32,
    "dense_intermediate_size": 96,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rotary_dim": 16,
    "n_shared_experts": 1,
    "shared_intermediate_size": 96,
    "hidden_act": "swigluoai",
    "moe_layer_freq": [0, 0, 1, 1],
}
M3_INDEXER = {
    "use_sparse_attention": True,
    "sparse_score_type": "max",
    "sparse_index_dim": 32,
    "sparse_num_index_heads": 2,
    "sparse_topk_blocks": 4,
    "sparse_block_size": 64,
    "sparse_init_block": 0,
    "sparse_local_block": 1,
    "sparse_disable_index_value": [0, 0, 1, 1],
    "sparse_attention_freq": [0, 0, 1, 1],
}


def test_minimax_m3_as_published() -> None:
    family, c, _ = read({**plain(), **M3, "sparse_attention_config": M3_INDEXER})
    assert (c.n_dense, c.n_shared, c.n_rot, c.index_heads, c.index_block, c.index_local) == (2, 1, 16, 2, 64, 1)
    graph = family.graph(c)
    assert graph.reach == 256
    assert [mixer.indexer is not None for mixer in graph.attentions()] == [False, False, True, True]
    exported = family.to_config(c)
    assert exported["layer_types"] == ["full_attention"] * 2 + ["minimax_m3_sparse"] * 2
    assert read(exported)[1] == c


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse_init_block": 1}, "sparse_attention_config.sparse_init_block: config value; expected 0"),
        ({"sparse_score_type": "mean"}, "expected 'max'"),
        ({"sparse_attention_freq": [0, 1, 1, 1]}, "layers whose indexers are not those with experts"),
        ({"more": 1}, "expected no such key"),
    ],
)
def test_indexers_of_blocks_that_nobody_has(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read({**plain(), **M3, "sparse_attention_config": {**M3_INDEXER, **changes}})


MIMO = {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "head_dim": 48,
    "v_head_dim": 32,
    "num_key_value_heads": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "layernorm_epsilon": 1e-5,
    "routed_scaling_factor": None,
    "n_shared_experts": None,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "swa_rope_theta": 10000,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 48,
    "hybrid_layer_pattern": [0, 1, 1, 0],
    "moe_layer_freq": [0, 1, 1, 1],
    "sliding_window": 128,
    "sliding_window_size": 128,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "attention_value_scale": 0.707,
}


def test_mimo_v2_as_published() -> None:
    """A window of so many keys before a query's own; Transformers 5 has all of this in words of its own."""
    family, c, _ = read({**plain(), **MIMO})
    assert c.n_head_kv == (1, 2, 2, 1)
    assert (c.window, c.windowed, c.n_dense, c.n_rot) == (129, (False, True, True, False), 1, 16)
    assert (c.rope_base, c.rope_base_window) == (5e6, 1e4)
    mixers = list(family.graph(c).attentions())
    assert [(mixer.kv_heads, mixer.sinks, mixer.window) for mixer in mixers[:2]] == [(1, False, 0), (2, True, 129)]
    exported = family.to_config(c)
    assert (exported["num_key_value_heads"], exported["sliding_window"]) == (1, 129)
    assert read(exported)[1] == c
    uneven = configs.changed(c, n_head_kv=(1, 4, 4, 1))
    with pytest.raises(UnsupportedError, match="numbers of key heads that Transformers' class does not have"):
        family.to_config(uneven)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swa_head_dim": 32}, "swa_head_dim: .* expected 48, head_dim; got 32"),
        ({"add_full_attention_sink_bias": True}, "add_full_attention_sink_bias"),
        ({"n_shared_experts": 1}, "n_shared_experts"),
    ],
)
def test_layers_of_mimo_v2_that_nobody_has(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read({**plain(), **MIMO, **changes})


KIMI = {
    "architectures": ["KimiLinearForCausalLM"],
    "model_type": "kimi_linear",
    "num_key_value_heads": 4,
    "model_max_length": 512,
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "mla_use_nope": True,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_experts": 8,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_expert_group": 1,
    "topk_group": 1,
    "use_grouped_topk": True,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "routed_scaling_factor": 2.446,
    "num_nextn_predict_layers": 0,
    "linear_attn_config": {
        "head_dim": 16,
        "num_heads": 4,
        "short_conv_kernel_size": 4,
        "full_attn_layers": [2, 4],
        "kda_layers": [1, 3],
    },
}


def test_kimi_linear_as_published() -> None:
    """Layers are counted from 1; none of them turns anything."""
    sizes = {key: value for key, value in plain().items() if key != "max_position_embeddings"}
    family, c, _ = read({**sizes, **KIMI})
    assert (c.n_ctx, c.n_head_kv, c.delta_dim, c.kernel, c.n_dense) == (512, (0, 1, 0, 1), 16, 4, 1)
    graph = family.graph(c)
    assert graph.ropes() == []
    kinds = [type(block[0].mixer).__name__ for block in graph.blocks]
    assert kinds == ["KimiDelta", "LatentAttention"] * 2
    exported = family.to_config(c)
    assert exported["layer_types"] == ["linear_attention", "full_attention"] * 2
    assert exported["num_key_value_heads"] == 4
    assert read(exported)[1] == c


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_heads": 2}, CheckpointError, "linear_num_heads: .* expected 4, num_attention_heads"),
        ({"kda_layers": [1, 2, 3]}, UnsupportedError, "layers that are of no kind, or of both"),
    ],
)
def test_layers_of_kimi_linear_that_nobody_has(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read({**plain(), **KIMI, "linear_attn_config": {**KIMI["linear_attn_config"], **changes}})


@pytest.mark.parametrize(
    ("of", "changes", "message"),
    [
        (M3, {"n_shared_experts": {}}, "n_shared_experts: wrong kind of value; expected a number"),
        (M3, {"rotary_dim": "16"}, "rotary_dim: wrong kind of value; expected a number"),
        (
            M3,
            {"rope_parameters": 3, "sparse_attention_config": M3_INDEXER},
            "rope_parameters: wrong kind of value",
        ),
        (M3, {"sparse_attention_config": "x"}, "sparse_attention_config: wrong kind of value; expected an object"),
        (KIMI, {"linear_attn_config": "x"}, "linear_attn_config: wrong kind of value; expected an object"),
        (KIMI, {"linear_attn_config": {"full_attn_layers": ["a"]}}, "full_attn_layers: .* expected a list of integers"),
        ({"architectures": ["GlmMoeDsaForCausalLM"]}, {"index_topk_pattern": [{}]}, "expected a text, or a list of"),
        ({"architectures": ["GlmMoeDsaForCausalLM"]}, {"indexer_types": [{}]}, "indexer_types: .* a list of texts"),
        ({"architectures": ["MiniCPMForCausalLM"]}, {"dim_model_base": 0}, "dim_model_base: .* a number above 0"),
        ({"architectures": ["MiniCPM3ForCausalLM"]}, {"scale_depth": 10**400}, "scale_depth: .* a number from 0"),
        ({"architectures": ["NomicBertModel"]}, {"n_positions": [1]}, "n_positions: wrong kind of value"),
    ],
)
def test_published_settings_of_a_wrong_kind(of: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read({**plain(), **of, **changes})


def test_mimo_v2_without_a_window_is_not_exported_with_its_key_heads() -> None:
    family, c, _ = read({**plain(), **MIMO, "sliding_window_size": -1})
    with pytest.raises(UnsupportedError, match="numbers of key heads that Transformers' class does not have"):
        family.to_config(c)


@pytest.mark.parametrize("key", ["scored", "position_offset", "dt_b_c_rms"])
def test_names_of_what_follows_from_other_keys_are_no_keys(key: str) -> None:
    """They were taken for what config.json says: a Jina model with ``scored`` had tensors that it lacks."""
    row = next(row for row in ROWS if row.model_class == "JinaEmbeddingsV3Model")
    with pytest.raises(CheckpointError, match=f"{key}: a key that no model class has"):
        read({**as_read(row), key: True})
