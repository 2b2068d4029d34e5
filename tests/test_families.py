"""Families as rows: names, shapes, transforms, hyper-parameters in both directions."""

from __future__ import annotations

import importlib
import math
import pkgutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguflike import families
from gguflike.errors import CheckpointError, GGUFError, UnsupportedError, in_flags
from gguflike.families import config as configs
from gguflike.families import refused, registry, rope, rope_settings
from gguflike.families.family import Family
from gguflike.families.parts import Tensor, role_of
from gguflike.families.transforms import RopePermute, RopeSplit
from tests import tiny
from tests.tiny import LLAMA3, VARIANTS, YARN


def read(**changes: Any) -> tuple[Any, Any, list[str]]:
    config = tiny.config(**changes)
    family = registry.for_config(config)
    c, notices = family.from_config(config)
    return family, c, notices


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_transformers_and_llama_cpp(variant: str) -> None:
    changes = VARIANTS[variant]
    family, c, _ = read(**changes)
    bindings = family.bind(c)
    config = {"num_key_value_heads": 4, **tiny.config(**changes)}
    assert {piece.hf: piece.hf_shape for b in bindings for piece in b.pieces} == tiny.shapes(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.n_layer)
    for binding in bindings:
        for piece in binding.pieces:
            assert binding.gguf == names.get_name(piece.hf, try_suffixes=(".weight", ".bias"))
    assert len({b.gguf for b in bindings}) == len(bindings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_survive_gguf_and_config(variant: str) -> None:
    family, c, _ = read(**VARIANTS[variant])
    metadata = configs.to_metadata(c, family.name)
    known = {
        value.replace("{arch}", "llama")
        for group in (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    assert {key for key in metadata if not key.startswith("gguflike.")} <= known
    assert configs.from_gguf(family.config, family.name, metadata, {b.gguf for b in family.bind(c)}) == c
    config = {**family.to_config(c), "bos_token_id": 1}
    assert registry.for_config(config).from_config(config)[0] == c


def test_the_registry_names_families_as_they_name_themselves() -> None:
    for place, architecture, *classes in registry.FAMILIES:
        family = at(place)
        assert family.name == architecture
        assert all(registry.family_of(name) is family for name in classes)
        assert registry.for_gguf(architecture).name == architecture


def test_the_registry_knows_every_family() -> None:
    """By a row of its own, or by that of the family whose variant it is."""
    for _, name, _ in pkgutil.iter_modules(families.__path__):
        for constant, value in vars(importlib.import_module(f"{families.__name__}.{name}")).items():
            if isinstance(value, Family):
                assert value.name in registry.ARCHITECTURES, f"{name}:{constant}"


def test_the_specification_names_every_key_of_our_own() -> None:
    page = (Path(__file__).parent.parent / "spec" / "metadata.md").read_text()
    ours = {
        parameter.key.gguf
        for place, *_ in registry.FAMILIES
        for parameter in configs.parameters(at(place).config)
        if parameter.key.gguf and parameter.key.gguf.startswith("gguflike.")
    }
    assert "gguflike.rope.llama3.factor" in ours
    assert [key for key in sorted(ours) if f"`{key}`" not in page] == []


def at(place: str) -> Family[Any]:
    module, _, constant = place.partition(":")
    family: Family[Any] = getattr(importlib.import_module(f"{families.__name__}.{module}"), constant)
    return family


def test_metadata_of_a_plain_model() -> None:
    family, c, notices = read()
    assert notices == []
    assert configs.to_metadata(c, family.name) == {
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.vocab_size": 260,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }


def test_rope_scaling_keys() -> None:
    family, c, _ = read(rope_scaling=YARN)
    keys = {k: v for k, v in configs.to_metadata(c, family.name).items() if "scaling" in k}
    assert keys == {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32,
    }
    family, c, _ = read(rope_scaling={"type": "linear", "factor": 2.0})
    keys = {k: v for k, v in configs.to_metadata(c, family.name).items() if "scaling" in k}
    assert keys == {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    family, c, _ = read(rope_scaling=LLAMA3)
    keys = {k: v for k, v in configs.to_metadata(c, family.name).items() if "scaling" in k or "llama3" in k}
    assert keys == {  # llama.cpp would take rope.scaling.factor for linear scaling
        "gguflike.rope.llama3.factor": 8.0,
        "gguflike.rope.llama3.low_freq_factor": 1.0,
        "gguflike.rope.llama3.high_freq_factor": 4.0,
        "gguflike.rope.llama3.original_context_length": 8192,
    }


@pytest.mark.parametrize(
    "parameters",
    [{"rope_theta": 5e5, **LLAMA3}, {"rope_theta": 1e4, **YARN}, {"rope_theta": 2e4, "rope_type": "default"}],
)
def test_transformers_5_spelling(parameters: dict[str, Any]) -> None:
    theta = parameters["rope_theta"]
    scaling = {k: v for k, v in parameters.items() if k != "rope_theta"}
    old = rope_settings.flatten({"rope_theta": theta, "rope_scaling": scaling})
    assert rope_settings.flatten({"rope_parameters": parameters}) == old
    assert (
        rope_settings.flatten({"rope_parameters": parameters, "rope_scaling": parameters, "rope_theta": theta}) == old
    )
    assert rope_settings.flatten(rope_settings.unflatten(old)) == old
    with pytest.raises(CheckpointError, match="contradict"):
        rope_settings.flatten({"rope_parameters": parameters, "rope_scaling": {"type": "linear", "factor": 3.0}})
    with pytest.raises(CheckpointError, match="two values of rope_theta"):
        rope_settings.flatten({"rope_parameters": parameters, "rope_theta": 1.0})


def test_llama3_factors_by_the_published_loop() -> None:
    """Meta's apply_scaling, one frequency at a time (llama-models, model.py)."""
    expected = []
    for j in range(64):
        wavelength = 2 * np.pi * 500000.0 ** (2 * j / 128)
        if wavelength < 8192 / 4:
            expected.append(1.0)
        elif wavelength > 8192 / 1:
            expected.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected.append(1 / ((1 - smooth) / 8 + smooth))
    got = rope.llama3_factors(500000.0, 128, 8.0, 1.0, 4.0, 8192.0)
    assert 1.0 < got[40] < 8.0 or 1.0 < got[30] < 8.0
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert rope.recognise_llama3(got, 500000.0) == (8.0, 1.0, 4.0, 8192.0)
    with pytest.raises(UnsupportedError, match="not Llama 3's"):
        rope.recognise_llama3(np.linspace(1, 8, 64, dtype="f4"), 500000.0)


def test_rope_permutation_pairs_what_rotates_together() -> None:
    rows = np.arange(2 * 8)[:, None]  # two heads of eight dimensions
    permute = RopePermute().bound(Tensor("attn_q.weight", (16, 1), heads=2))
    assert permute.group == 8
    assert permute.apply(rows)[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert permute.apply(rows)[8:, 0].tolist() == [8, 12, 9, 13, 10, 14, 11, 15]
    np.testing.assert_array_equal(permute.undo(permute.apply(rows)), rows)
    bias = np.arange(16)
    np.testing.assert_array_equal(permute.apply(bias), permute.apply(rows)[:, 0])


def test_adjacent_pairs_are_split_into_halves() -> None:
    rows = np.arange(2 * 8)[:, None]
    split = RopeSplit(part=2).bound(Tensor("attn_q.weight", (16, 1), heads=2))
    assert split.apply(rows)[:8, 0].tolist() == [0, 2, 1, 3, 4, 5, 6, 7]  # the second half of a head stays
    np.testing.assert_array_equal(split.undo(split.apply(rows)), rows)
    whole = Tensor("attn_q.weight", (16, 1), heads=2)
    np.testing.assert_array_equal(RopeSplit().bound(whole).apply(RopePermute().bound(whole).apply(rows)), rows)


def test_unknown_config_keys_are_errors() -> None:
    family = registry.for_config(tiny.config())
    for key, value in {"logit_softcapping": 30.0, "use_rope": False}.items():
        with pytest.raises(UnsupportedError, match=f"config.json: {key}"):
            family.from_config(tiny.config(**{key: value}))
        c, _ = family.from_config(tiny.config(**{key: value}), ignore=[key])
        assert c.n_embd == 32
    inert = {"_name_or_path": "x", "pretraining_tp": 1, "rope_extra": None, "temperature": 0.6, "rope_theta": 1e10}
    family.from_config(tiny.config() | inert)
    with pytest.raises(UnsupportedError, match=r"hidden_act.*expected 'silu' or 'swish'; got 'gelu'"):
        family.from_config(tiny.config(hidden_act="gelu"))


OTHER = {"model_type": "other"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_size": "32"}, CheckpointError, "hidden_size: wrong kind"),
        ({"hidden_size": -1}, CheckpointError, "wrong kind"),
        ({"num_hidden_layers": 2**40}, CheckpointError, "wrong kind"),
        ({"num_hidden_layers": True}, CheckpointError, "wrong kind"),
        ({"rms_norm_eps": 0.0}, CheckpointError, "wrong kind"),
        ({"attention_bias": "yes"}, CheckpointError, "wrong kind"),
        ({"rope_theta": -1.0}, CheckpointError, "rope_theta is not a positive number"),
        ({"rope_scaling": []}, CheckpointError, "rope_scaling: wrong kind of value; expected an object"),
        ({"rope_scaling": "llama3"}, CheckpointError, "rope_scaling: wrong kind of value; expected an object"),
        ({"rope_scaling": {"type": "dynamic", "factor": "2"}}, CheckpointError, "rope_scaling.factor: wrong kind"),
        ({"rope_scaling": {"type": "linear"}}, CheckpointError, "factor is not a positive number"),
        ({"rope_scaling": {"type": "ntk"}}, UnsupportedError, "rope type.*got 'ntk'"),
        ({"rope_scaling": {**YARN, "temperature": 0.7}}, UnsupportedError, "temperature with type yarn"),
        ({"rope_scaling": {**YARN, "attention_factor": "2"}}, CheckpointError, "attention_factor"),
        ({"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}}, UnsupportedError, "partial_rotary_factor"),
        ({"architectures": ["LamaForCausal"], **OTHER}, UnsupportedError, r"one of \d+ .*LlamaForCausalLM.*'LamaForC"),
        ({"architectures": None, **OTHER}, CheckpointError, "of which class the model is; .*got model_type 'other'"),
        ({"architectures": None, "model_type": None}, CheckpointError, "architectures: .* of which class"),
        ({"architectures": "LlamaForCausalLM"}, CheckpointError, "architectures: wrong kind of value"),
        ({"architectures": [1]}, CheckpointError, "architectures: wrong kind of value"),
        ({"architectures": ["T5EncoderModel"]}, UnsupportedError, "T5EncoderModel needs"),
    ],
)
def test_bad_configs(changes: dict[str, Any], error: type[Exception] | None, message: str) -> None:
    if error is None:
        read(**changes)
        return
    with pytest.raises(error, match=message):
        read(**changes)


def test_model_type_says_the_class_where_architectures_do_not() -> None:
    """As Transformers finds it; absent keys are those of that class."""
    for missing in ({"architectures": None}, {"architectures": []}):
        assert read(**missing)[0] is registry.family_of("LlamaForCausalLM")
        assert read(**missing)[2] == []
    family, _, notices = read(architectures=["LlamaModel"])
    assert family is registry.family_of("LlamaForCausalLM")
    assert notices == ["LlamaModel is taken for LlamaForCausalLM, as model_type llama says"]
    assert read(architectures=["MyModel", "LlamaForCausalLM"])[2] == []
    family, _, notices = read(model_type="mistral")
    assert family is registry.family_of("LlamaForCausalLM")
    said = "taken for LlamaForCausalLM, as architectures says; by its model_type, mistral, Transformers makes it"
    assert notices == [f"{said} MistralForCausalLM"]
    for nothing in ("llama", "mine", None):  # what is not known says nothing
        assert read(model_type=nothing)[2] == []
    for kind, model_class in {
        "mistral": "MistralForCausalLM",
        "gpt2": "GPT2LMHeadModel",
        "bert": "BertModel",
        "qwen3": "Qwen3ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
        "gemma3": "Gemma3ForConditionalGeneration",
        "llava": "LlavaForConditionalGeneration",
    }.items():
        assert registry.class_of({"model_type": kind}) == model_class
    assert read(architectures=None, model_type="mistral")[1].window == 4096


def test_absent_keys_mean_what_transformers_assumes() -> None:
    bare = {"architectures": ["LlamaForCausalLM"]}
    c, _ = registry.for_config(bare).from_config(bare)
    assert (c.n_embd, c.n_layer, c.n_head, c.n_head_kv, c.n_vocab, c.n_ctx) == (4096, 32, 32, 32, 32000, 2048)
    text = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"hidden_size": 2560}}
    c, _ = registry.for_config(text).from_config(text)
    assert (c.n_embd, c.n_head, c.n_vocab, c.window, c.rope_base) == (2560, 8, 262208, 4096, 1e6)
    with pytest.raises(CheckpointError, match=r"rope_parameters: .* how positions are stretched.*assumes 'yarn'"):
        registry.for_config({"model_type": "gpt_oss"}).from_config({"model_type": "gpt_oss", "rope_theta": 1e6})


def test_keys_that_llama_does_not_read_are_said() -> None:
    """As LlamaForCausalLM of Transformers has it: there is no window, whatever config.json says."""
    said = "changes nothing: LlamaForCausalLM of Transformers does not read it"
    plain = read()[1]
    for key, value in {"sliding_window": 64, "bias": True, "max_window_layers": 1, "use_sliding_window": True}.items():
        assert read(**{key: value})[1:] == (plain, [f"{key} {value!r} {said}"])
    assert read(sliding_window=None, bias=False, use_sliding_window=False)[1:] == (plain, [])


def test_keys_that_are_off_and_those_of_training_change_nothing() -> None:
    """In whatever class; but not with other values, and none that only looks like them."""
    off = {"layer_types": ["full_attention"] * 2, "is_causal": True, "qk_norm": False, "logits_scaling": 1.0}
    off |= {
        "moe_router_aux_loss_coef": 0.1,
        "hidden_dropout_prob": 0.1,
        "initializer_cutoff_factor": 2.0,
        "use_mup": False,
    }
    for key, value in off.items():
        assert read(**{key: value})[1:] == (read()[1], []), key
    on = {"layer_types": ["full_attention", "sliding_attention"], "is_causal": False, "qk_norm": True}
    on |= {"logits_scaling": 2.0, "use_mup": True, "dropout_gate": 1, "use_rope": False}
    for key, value in on.items():
        with pytest.raises(UnsupportedError, match=f"config.json: {key}"):
            read(**{key: value})


def test_all_unknown_keys_are_named_at_once() -> None:
    """With what accepts them, in the words of who reads it."""
    unknown = {"max_sequence_length": 2048, "attn_implementation": "sdpa"}
    with pytest.raises(UnsupportedError, match="2 keys that LlamaForCausalLM is not known to have") as error:
        read(**unknown)
    text = str(error.value)
    assert "config.json: max_sequence_length, attn_implementation" in text
    assert "max_sequence_length=2048, attn_implementation='sdpa'" in text
    assert text.endswith("`ignore_config=['max_sequence_length', 'attn_implementation']`")
    flags = {"ignore_config": "--ignore-config"}
    assert in_flags(text, flags).endswith("--ignore-config max_sequence_length,attn_implementation")
    family = registry.for_config(tiny.config())
    assert family.from_config(tiny.config(**unknown), ignore=unknown)[0] == read()[1]


def test_a_dynamic_rotation_is_plain_within_the_context() -> None:
    """Transformers stretches only texts beyond it, by their length, which GGUF cannot say."""
    _, c, notices = read(rope_scaling={"type": "dynamic", "factor": 2.0})
    assert c == read()[1]
    assert notices == ["GGUF cannot say a dynamic rotation (rope_type): beyond 128 tokens, positions are not stretched"]


def test_llama_with_two_lists_of_divisors() -> None:
    """As llama.cpp reads them in this architecture: long ones beyond the first context, short ones within."""
    lists = {"long_factor": [2.0, 3.0, 4.0, 5.0], "short_factor": [1.0, 1.25, 1.5, 1.75]}
    longrope = {"rope_type": "longrope", **lists, "factor": 4.0, "original_max_position_embeddings": 32}
    family, c, notices = read(rope_scaling=longrope)
    assert not notices
    bindings = {binding.gguf: binding for binding in family.bind(c)}
    for kind in ("long", "short"):
        made = bindings[f"rope_factors_{kind}.weight"].make
        assert made is not None
        assert made().tolist() == lists[f"{kind}_factor"]
    metadata = configs.to_metadata(c, family.name)
    assert metadata["llama.rope.scaling.type"] == "longrope"
    assert metadata["llama.rope.scaling.original_context_length"] == 32
    assert metadata["llama.rope.scaling.attn_factor"] == pytest.approx((1 + math.log(4) / math.log(32)) ** 0.5)
    held = {name: np.array(lists[f"{name.split('_')[2][:-7]}_factor"], "f4") for name in bindings if "factors" in name}
    back = configs.from_gguf(family.config, family.name, metadata, bindings)
    assert family.recover is not None
    assert family.graph(family.recover(back, held.__getitem__)) == family.graph(c)
    again = read(**{"rope_scaling": None, **family.to_config(c)})[1]
    assert again.rope_attn_factor == pytest.approx(c.rope_attn_factor)
    assert configs.changed(again, rope_attn_factor=c.rope_attn_factor) == c


def test_an_export_says_of_a_plain_rotation_that_it_is_plain() -> None:
    """Where Transformers would assume another one."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "num_local_experts": 4}
    plain = {"rope_type": "default", "rope_theta": 5000.0}
    config = {"architectures": ["GptOssForCausalLM"], **sizes, "rope_parameters": plain}
    family = registry.for_config(config)
    c, _ = family.from_config(config)
    exported = family.to_config(c)
    assert exported["rope_parameters"] == plain
    assert not {"rope_theta", "rope_scaling"} & exported.keys()
    assert family.from_config(exported)[0] == c
    stretched, _ = family.from_config({key: value for key, value in config.items() if key != "rope_parameters"})
    assert (stretched.rope_scaling, stretched.rope_factor, stretched.rope_base) == ("yarn", 32.0, 150000.0)


def test_a_sliding_window_is_kept() -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    family, c, notices = read(**mistral, sliding_window=64)
    assert (c.n_ctx, c.window) == (128, 64)
    assert [attention.window for attention in family.graph(c).attentions()] == [64, 64]
    assert notices == ["llama.cpp knows no sliding window in this architecture: beyond 64 tokens it computes otherwise"]
    assert configs.to_metadata(c, family.name)["llama.attention.sliding_window"] == 64
    assert family.to_config(c)["architectures"] == ["MistralForCausalLM"]
    assert read(**mistral, sliding_window=None)[1:][1] == []
    assert read(**mistral, sliding_window=64, use_sliding_window=False)[1].window == 0
    _, c, notices = read(**mistral, sliding_window=128)
    assert not notices
    assert [attention.window for attention in family.graph(c).attentions()] == [0, 0]  # as long as the context
    bare = {k: v for k, v in tiny.config(**mistral).items() if k not in ("max_position_embeddings", "sliding_window")}
    assert registry.for_config(mistral).from_config(bare)[0].window == 4096  # MistralConfig's default window
    with pytest.raises(CheckpointError, match="sliding_window: wrong kind"):
        read(**mistral, sliding_window=-1)


def test_gguf_parameters_of_other_writers() -> None:
    family, c, _ = read()
    metadata = configs.to_metadata(c, family.name)
    names = {b.gguf for b in family.bind(c)}
    for key in ("llama.attention.key_length", "llama.attention.value_length", "llama.vocab_size"):
        del metadata[key]
    with pytest.raises(GGUFError, match=r"llama\.vocab_size"):
        configs.from_gguf(family.config, family.name, metadata, names)
    metadata |= {"tokenizer.ggml.tokens": ["x"] * 260, "llama.rope.scaling.type": "none"}
    metadata["llama.attention.head_count_kv"] = np.array([2, 2], np.uint32)
    assert configs.from_gguf(family.config, family.name, metadata, names) == c
    with pytest.raises(GGUFError, match=r"llama\.attention\.head_count_kv: wrong kind"):
        configs.from_gguf(
            family.config, family.name, metadata | {"llama.attention.head_count_kv": np.array([2, 1])}, names
        )
    with pytest.raises(GGUFError, match=r"llama\.block_count: required value is missing"):
        configs.from_gguf(family.config, family.name, {}, names)
    with pytest.raises(UnsupportedError, match=r"expected one of \d+ that are known, such as gpt2, gpt.*got 'gpt9'"):
        registry.for_gguf("gpt9")


def test_roles() -> None:
    assert role_of("blk.12.attn_q.weight") == ("attn_q", 12)
    assert role_of("blk.0.attn_q.bias") == ("attn_q.bias", 0)
    assert role_of("token_embd.weight") == ("token_embd", None)


def test_layers_that_predict_further_tokens_are_left_out() -> None:
    family = registry.for_config(tiny.config())
    said = "what predicts further tokens"
    assert family.part_left_out("model.layers.2.mlp.up_proj.weight", 2, 1) == said
    assert family.part_left_out("model.layers.3.mlp.up_proj.weight", 2, 1) is None
    assert family.part_left_out("model.layers.1.mlp.up_proj.weight", 2, 1) is None
    assert family.part_left_out("model.layers.2.mlp.up_proj.weight", 2, 0) is None


def test_models_that_are_refused_say_what_they_need() -> None:
    assert not set(refused.CLASSES) & set(registry.CLASSES)
    assert not set(refused.ARCHITECTURES) & set(registry.ARCHITECTURES)
    with pytest.raises(UnsupportedError, match=r"architectures: DeepseekV4ForCausalLM needs .*: layers are joined"):
        registry.for_config({"architectures": ["DeepseekV4ForCausalLM"]})
    with pytest.raises(UnsupportedError, match=r"general\.architecture: t5 needs .*: a decoder that attends to an enc"):
        registry.for_gguf("t5")


def test_models_that_see_or_hear_are_of_the_family_of_their_text_model() -> None:
    of = {"architectures": ["LlavaForConditionalGeneration"]}
    family = registry.for_config({**of, "text_config": {"model_type": "qwen2"}})
    assert family.name == "qwen2"
    assert family.part_left_out("model.vision_tower.layers.0.weight", 2, 0) == "the vision tower"
    assert family.part_left_out("model.layers.0.self_attn.q_proj.weight", 2, 0) is None
    with pytest.raises(UnsupportedError, match=r"text_config\.model_type: text model of a model that sees or hears"):
        registry.for_config({**of, "text_config": {"model_type": "opt"}})
    kimi = registry.for_config(
        {"architectures": ["KimiK25ForConditionalGeneration"], "text_config": {"model_type": "kimi_k2"}}
    )
    assert kimi.name == "deepseek2"
    assert kimi.canonical("language_model.model.blocks.3.mlp.up_proj.weight") == "model.layers.3.mlp.up_proj.weight"
    assert kimi.part_left_out("mm_projector.proj.0.weight", 2, 0) == "the projector"


def test_layers_without_experts_are_those_before_the_first_router_where_a_file_does_not_say() -> None:
    sizes = {"embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4, "block_count": 4}
    metadata = {f"hy_v3.{key}": value for key, value in sizes.items()}
    metadata |= {"hy_v3.expert_count": 8, "hy_v3.expert_used_count": 2, "hy_v3.expert_feed_forward_length": 32}
    metadata["tokenizer.ggml.tokens"] = ["x"] * 260
    family = registry.for_gguf("hy_v3")
    routers = {f"blk.{layer}.ffn_gate_inp.weight" for layer in (2, 3)}
    assert family.from_file(metadata, routers).n_dense == 2
    assert family.from_file({**metadata, "hy_v3.leading_dense_block_count": 1}, routers).n_dense == 1
