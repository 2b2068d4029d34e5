"""Settings that config.json may switch and hardly any published model does: computed, or refused, and never dropped."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from gguflike.families import config as configs
from gguflike.families import demands, registry
from gguflike.families.parts import Graph
from tests.interop.families.row import YARN, rope
from tests.interop.families.table import TABLE

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
STRETCHED = {
    "linear": rope(1e4, "linear", factor=4.0),
    "llama3": rope(1e4, "llama3", **LLAMA3),
    "yarn": YARN,
}
ROWS = {
    row.name: row
    for row in TABLE.values()
    if (row.registered or row.model_class) in registry.CLASSES and "text_config" not in row.config
}


def read(name: str, **changes: Any) -> tuple[Any, Any, list[str]]:
    """The family, the configuration and the notices of a row with other settings."""
    row = ROWS[name]
    config = {"architectures": [row.registered or row.model_class], **row.config, **changes}
    family = registry.for_config(config)
    of_tensors = {key: [0.25, -0.5, 0.0, 1.0] for key in family.small if "xielu" in key}
    c, said = family.from_config({**of_tensors, **config})
    return family, c, [*said, *demands.notices(family.name, family.graph(c))]


def turned(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` of a row with these settings, in layers that see everything where types of layers differ."""
    given = ROWS[name].config.get("rope_parameters") or {}
    if not any(isinstance(each, dict) for each in given.values()):
        share = {key: given[key] for key in ("partial_rotary_factor", "mrope_section") if key in given}
        return {**share, **settings}
    return {**given, "full_attention": settings}


@pytest.mark.parametrize("kind", STRETCHED)
def test_a_stretched_rotation_is_computed_or_refused(kind: str) -> None:
    """EuroBERT's was read and dropped; Llama 3's scaling ended in a KeyError where nobody had made its tensor."""
    computed = 0
    for name in ROWS:
        try:
            family, c, _ = read(name, rope_parameters=turned(name, STRETCHED[kind]), rope_scaling=None)
        except (CheckpointError, UnsupportedError):
            continue
        graph = family.graph(c)
        if graph.ropes():
            check_rotation(name, kind, family, c, graph)
            computed += 1
    assert computed > len(ROWS) / 2


def check_rotation(name: str, kind: str, family: Any, c: Any, graph: Graph) -> None:
    assert any(each.scaling is not None or "rope_freqs.weight" in each.divisors for each in graph.ropes()), name
    made = {binding.gguf: binding for binding in family.bind(c)}
    if kind == "llama3" and family.name != "gemma4":
        factors = made["rope_freqs.weight"]
        assert factors.make is not None, name
        assert factors.make().max() == 8.0, name
        told = any(field == "rope_freqs.weight" for field, _ in demands.broken(family.name, graph))
        assert told == (family.name not in demands.READ["rope_freqs.weight"]), name
    metadata = {**configs.to_metadata(c, family.name), "tokenizer.ggml.tokens": ["x"] * c.n_vocab}
    again = configs.from_gguf(family.config, family.name, metadata, made)
    assert family.graph(again).ropes() == graph.ropes(), name


@pytest.mark.parametrize(
    "name", ["MellumForCausalLM", "LagunaForCausalLM", "Gemma3ForCausalLM", "MiMoV2FlashForCausalLM"]
)
def test_only_full_layers_are_stretched(name: str) -> None:
    family, c, _ = read(name, rope_parameters=turned(name, STRETCHED["llama3"]))
    divisors = {bool(mixer.window): mixer.rope.divisors for mixer in family.graph(c).attentions()}
    assert divisors == {True: (), False: ("rope_freqs.weight",)}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Qwen3NextForCausalLM", {}),
        ("Qwen3_5ForCausalLM", {"mrope_section": [2, 1, 1]}),
        ("GPTNeoXForCausalLM", {}),
        ("Glm4ForCausalLM", {}),
    ],
)
def test_all_of_a_head_turns_where_config_json_says_so(name: str, given: dict[str, Any]) -> None:
    """A share of 1 was taken for none said, for which Qwen 3.5 has a quarter."""
    family, c, _ = read(name, rope_parameters=rope(1e4, partial_rotary_factor=1.0, **given))
    assert c.n_rot == c.head_dim
    again, back, _ = (lambda config: (registry.for_config(config), *registry.for_config(config).from_config(config)))(
        family.to_config(c)
    )
    assert (again.name, back.n_rot) == (family.name, c.head_dim)


def test_full_layers_of_gemma_4_turn_whole_where_the_rotation_is_plain() -> None:
    plain = {"full_attention": rope(5e5), "sliding_attention": rope(1e4)}
    family, c, _ = read("Gemma4ForCausalLM", rope_parameters=plain)
    [made] = [binding.make for binding in family.bind(c) if binding.gguf == "rope_freqs.weight"]
    assert made is not None
    assert (made() == 1.0).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("HYV3ForCausalLM", {"mlp_bias": True}, "biases of the experts that all tokens share"),
        (
            "DeepseekV3ForCausalLM",
            {"topk_group": 1},
            r"expert_used_count.*more experts for a token.*at most 2, which 1 of 4 groups hold; got 3",
        ),
        ("Glm4MoeForCausalLM", {"n_group": 3}, "groups of experts; expected 8 experts in groups of one size"),
        ("Glm4MoeForCausalLM", {"topk_group": 2}, "got 1 groups, of which a token's are 2"),
        ("JambaForCausalLM", {"num_experts_per_tok": 5}, "at most 4; got 5"),
        ("Ernie4_5_MoeForCausalLM", {"use_bias": True}, "use_bias: config value; expected False"),
        ("OlmoeForCausalLM", {"clip_qkv": 0.5}, "clip_qkv"),
        (
            "MiniCPM3ForCausalLM",
            {"rope_parameters": {**YARN, "mscale_all_dim": 1.0}},
            r"rope_parameters\.mscale_all_dim: a factor of scores",
        ),
    ],
)
def test_what_a_file_cannot_say_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    """Biases of shared experts were left out, as if config.json ruled them out."""
    with pytest.raises(UnsupportedError, match=message):
        read(name, **changes)


@pytest.mark.parametrize("name", ["GraniteMoeHybridForCausalLM", "BambaForCausalLM", "FalconH1ForCausalLM"])
def test_convolutions_of_mamba_2_without_a_bias(name: str) -> None:
    check_convolutions(name, "mamba_conv_bias")


@pytest.mark.parametrize("name", ["NemotronHForCausalLM", "NemotronHForCausalLM/experts"])
def test_convolutions_of_nemotron_h_without_a_bias(name: str) -> None:
    check_convolutions(name, "use_conv_bias")


def check_convolutions(name: str, key: str) -> None:
    for has in (True, False):
        family, c, _ = read(name, **{key: has})
        tensors = [binding.gguf for binding in family.bind(c)]
        assert any(each.endswith("ssm_conv1d.bias") for each in tensors) == has
        metadata = {**configs.to_metadata(c, family.name), "tokenizer.ggml.tokens": ["x"] * 384}
        assert configs.from_gguf(family.config, family.name, metadata, tensors).conv_bias == has
        assert family.to_config(c)[key] == has
        told = [field for field, _ in demands.broken(family.name, family.graph(c))]
        assert ("ssm_conv1d.bias" in " ".join(told)) == (not has)


def test_caps_of_gemma_2_that_are_off_divide_by_no_zero() -> None:
    """llama.cpp divides scores by what the file says, in every model of this architecture."""
    off = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    family, c, _ = read("Gemma2ForCausalLM", **off)
    metadata = configs.to_metadata(c, family.name)
    assert [metadata[f"gemma2.{key}"] for key in off] == [1e9, 1e9]
    graph = family.graph(c)
    assert {mixer.softcap for mixer in graph.attentions()} == {0.0}
    assert getattr(graph.head, "softcap", None) == 0.0
    exported = family.to_config(c)
    assert {key: exported[key] for key in off} == off


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("Gemma2ForCausalLM", {"tie_word_embeddings": False}, "output.weight"),
        ("Olmo2ForCausalLM", {"tie_word_embeddings": True}, "output.weight"),
        ("Olmo2ForCausalLM", {"attention_bias": True}, "blk.0.attn_output.bias"),
        ("Lfm2ForCausalLM", {"conv_bias": True}, "blk.0.shortconv.in_proj.bias"),
        ("GPTNeoXForCausalLM", {"attention_bias": False}, "blk.0.attn_qkv.bias"),
        ("Dots1ForCausalLM", {"num_key_value_heads": 2}, "dots1.attention.head_count_kv"),
        ("MambaForCausalLM", {"intermediate_size": 64}, "mamba.ssm.inner_size"),
        ("Qwen3ForCausalLM", {"tie_word_embeddings": True}, None),
        ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, None),
    ],
)
def test_tensors_that_llama_cpp_does_not_expect_are_told(name: str, changes: dict[str, Any], field: str | None) -> None:
    family, c, _ = read(name, **changes)
    told = [each for each, said in demands.broken(family.name, family.graph(c)) if "refuses" in said]
    assert (field in told) if field else not told


def test_where_yarn_blends_is_told_where_llama_cpp_does_not_read_it() -> None:
    blended = {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}
    _, _, said = read("Qwen3ForCausalLM", rope_parameters=blended)
    assert [each for each in said if "--yarn-beta-fast 16 --yarn-beta-slow 2" in each]
    mistral = {**blended, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}
    assert not [each for each in read("Ministral3ForCausalLM", rope_parameters=mistral)[2] if "YaRN" in each]
    assert not [each for each in read("Qwen3ForCausalLM", rope_parameters=YARN)[2] if "YaRN" in each]


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
@pytest.mark.parametrize("name", ["DeepseekV3ForCausalLM", "MiniCPM3ForCausalLM", "KimiLinearForCausalLM"])
def test_norms_of_latents_have_an_epsilon_of_their_own(name: str, eps: float) -> None:
    family, c, said = read(name, rms_norm_eps=eps)
    graph = family.graph(c)
    norms = {place.tensor.role for place in graph.tensors() if place.tensor.role.endswith("_a_norm.weight")}
    assert "attn_kv_a_norm.weight" in norms
    latents = [branch.mixer for block in graph.blocks for branch in block if hasattr(branch.mixer, "kv_norm")]
    assert {mixer.kv_norm.eps for mixer in latents} == {1e-6}
    assert any("norms of latents" in each for each in said) == (eps != 1e-6)


def test_every_refusal_of_a_switch_is_one_of_ours() -> None:
    """Truth values of a row's configuration, turned over one by one: a configuration, or one typed error."""
    refused = 0
    for name, row in ROWS.items():
        for key in (key for key, value in row.config.items() if isinstance(value, bool)):
            try:
                family, c, _ = read(name, **{key: not row.config[key]})
                family.bind(c)
            except GGUFLikeError:
                refused += 1
    assert refused


def test_windows_of_smollm3_are_those_of_layers_that_do_not_turn() -> None:
    family, c, _ = read("SmolLM3ForCausalLM", use_sliding_window=True, sliding_window=16)
    mixers = list(family.graph(c).attentions())
    assert [(mixer.window, mixer.rope is None) for mixer in mixers] == [*[(0, False)] * 3, (16, True), (0, False)]


@pytest.mark.parametrize(
    ("name", "changes", "lacking"),
    [
        ("GraniteSWAForCausalLM", {"layer_types": ["full_attention"] * 4}, "has a window"),
        ("GraniteSWAForCausalLM", {"layer_types": ["sliding_attention"] * 4}, None),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention"] * 4}, "has a window"),
        ("ModernBertModel", {"layer_types": ["full_attention"] * 4}, "has a window"),
        ("Gemma3TextModel", {"layer_types": ["sliding_attention"] * 7}, "sees everything"),
        ("Lfm2ForCausalLM", {"layer_types": ["conv"] * 4}, "attends"),
        ("Lfm2ForCausalLM", {"layer_types": ["full_attention"] * 4}, "carries a state"),
        ("Qwen3NextForCausalLM", {"layer_types": ["linear_attention"] * 8}, "attends"),
        ("KimiLinearForCausalLM", {"layer_types": ["full_attention"] * 4}, "carries a state"),
        ("JambaForCausalLM", {"num_hidden_layers": 1}, "attends"),
    ],
)
def test_layers_of_one_kind_where_llama_cpp_has_two_are_told(
    name: str, changes: dict[str, Any], lacking: str | None
) -> None:
    """It died of an assertion."""
    for given, expected in (({}, None), (changes, lacking)):
        said = [each for each in read(name, **given)[2] if "refuses the file: no layer" in each]
        assert [expected in each for each in said] == ([True] if expected else [])


@pytest.mark.parametrize("name", ["Olmo3ForCausalLM", "MellumForCausalLM", "LagunaForCausalLM"])
def test_a_window_that_no_layer_has_is_told(name: str) -> None:
    layers = ROWS[name].config["num_hidden_layers"]
    for kind, told in (("full_attention", True), ("sliding_attention", False)):
        _, _, said = read(name, layer_types=[kind] * layers)
        assert any("refuses the file: it has a window" in each for each in said) == told


@pytest.mark.parametrize(
    "name",
    [
        *("GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteSWAForCausalLM", "ApertusForCausalLM"),
        "Ministral3ForCausalLM",
    ],
)
def test_two_lists_of_divisors_are_computed_where_llama_cpp_reads_them(name: str) -> None:
    config = ROWS[name].config
    pairs = (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) // 2
    lists = {f"{kind}_factor": [1.0 + step * i for i in range(pairs)] for kind, step in (("short", 0.25), ("long", 1))}
    settings = rope(1e4, "longrope", original_max_position_embeddings=32, factor=4.0, **lists)
    family, c, said = read(name, rope_parameters=settings)
    assert not [each for each in said if "refuses" in each]
    ropes = family.graph(c).ropes()
    assert [(each.scaling.kind, each.scaling.context) for each in ropes] == [("longrope", 32)]
    assert ropes[0].scaling.magnitude == pytest.approx((1 + math.log(4) / math.log(32)) ** 0.5)
    made = {binding.gguf: binding.make for binding in family.bind(c) if "rope_factors" in binding.gguf}
    assert {key: make().tolist() for key, make in made.items() if make is not None} == {
        f"rope_factors_{kind}.weight": lists[f"{kind}_factor"] for kind in ("long", "short")
    }
    metadata = {**configs.to_metadata(c, family.name), "tokenizer.ggml.tokens": ["x"] * c.n_vocab}
    back = configs.from_gguf(family.config, family.name, metadata, [binding.gguf for binding in family.bind(c)])
    assert family.recover is not None
    whole = family.recover(back, lambda tensor: made[tensor]())
    assert family.graph(whole) == family.graph(c)
    exported = family.to_config(whole)
    assert {key: exported["rope_scaling"][key] for key in lists} == lists
    assert registry.for_config(exported).from_config(exported)[0].long_factor == c.long_factor


@pytest.mark.parametrize("name", ["GraniteMoeHybridForCausalLM", "Qwen3ForCausalLM"])
def test_two_lists_of_divisors_are_refused_where_llama_cpp_reads_none(name: str) -> None:
    settings = rope(1e4, "longrope", original_max_position_embeddings=32, short_factor=[1.0] * 8, long_factor=[2.0] * 8)
    with pytest.raises(UnsupportedError, match="longrope"):
        read(name, rope_parameters=settings)


def test_heads_of_mimo_turn_in_part_unless_they_are_stretched() -> None:
    """As in Transformers, where nothing says how much of them; it was all."""
    plain = {"full_attention": rope(5e6), "sliding_attention": rope(1e4)}
    _, c, _ = read("MiMoV2FlashForCausalLM", rope_parameters=plain)
    assert (c.head_dim, c.n_rot, c.n_rot_window) == (48, 16, 16)
    with pytest.raises(CheckpointError, match="as in layers without a window"):
        read("MiMoV2FlashForCausalLM", rope_parameters={**plain, "full_attention": YARN})


def test_truncate_counts_where_transformers_reads_it() -> None:
    """Beside the settings of types of layers, and not among them."""
    name = "Olmo3ForCausalLM"
    given = {"full_attention": YARN, "sliding_attention": rope(1e4)}
    within = {**given, "full_attention": {**YARN, "truncate": False}}
    for settings, truncates, idle in (
        (given, True, False),
        (within, True, True),
        ({**given, "truncate": False}, False, False),
    ):
        family, c, said = read(name, rope_parameters=settings)
        assert c.yarn_truncate == truncates
        assert any("truncate false changes nothing" in each for each in said) == idle
        assert family.from_config(family.to_config(c))[0].yarn_truncate == truncates


def test_layers_of_afmoe_that_llama_cpp_turns_otherwise_are_told() -> None:
    """It counts layers, where those with a window turn."""
    for kind, told in ((None, False), ("sliding_attention", True), ("full_attention", True)):
        _, _, said = read("AfmoeForCausalLM", **({} if kind is None else {"layer_types": [kind] * 4}))
        assert any("all layers but every fourth" in each for each in said) == told, kind


def test_weights_of_deepseek_v2_are_divided_as_its_authors_do() -> None:
    """Transformers reads no norm_topk_prob in this class, as the notice says."""
    for changes, divides in (({}, False), ({"norm_topk_prob": True}, True)):
        for used, several in ((2, True), (1, False)):  # the weight of one is left as it is
            family, c, said = read("DeepseekV2ForCausalLM/Lite", num_experts_per_tok=used, **changes)
            routers = {mixer.router.normalize for mixer in family.graph(c).mixers() if hasattr(mixer, "router")}
            assert routers == {divides and several}
            assert any("Transformers does not" in each for each in said) == (divides and several)
    assert not [each for each in read("DeepseekV3ForCausalLM")[2] if "Transformers does not" in each]


def test_gpt_neox_turns_by_its_own_names_of_settings() -> None:
    """Those of other classes were read, which its class in Transformers does not do."""
    plain = {"rope_parameters": None}
    for other, own, value in (("partial_rotary_factor", "rotary_pct", 0.5), ("rope_theta", "rotary_emb_base", 5e5)):
        with pytest.raises(CheckpointError, match=f"{other} is not {own}"):
            read("GPTNeoXForCausalLM", **plain, **{other: value})
        family, c, _ = read("GPTNeoXForCausalLM", **plain, **{other: value, own: value})
        assert (c.n_rot, c.rope_base) == ((8, 1e4) if own == "rotary_pct" else (4, 5e5))
        exported = family.to_config(c)
        assert exported.get(own) == value
        assert other not in exported
        assert family.from_config(exported)[0] == c


def test_heads_of_mistral_4_of_another_size_than_their_parts_are_refused() -> None:
    config = next(row.config for row in TABLE.values() if row.name == "Mistral3ForConditionalGeneration/experts")
    text = config["text_config"]
    whole = text["qk_nope_head_dim"] + text["qk_rope_head_dim"]
    for size, works in ((whole, True), (8, False)):
        given = {
            **config,
            "architectures": ["Mistral3ForConditionalGeneration"],
            "text_config": {**text, "head_dim": size},
        }
        family = registry.for_config(given)
        if works:
            assert family.from_config(given)[0].key_dim == whole
            continue
        with pytest.raises(UnsupportedError, match=f"head_dim.*expected {whole}, .*got {size}"):
            family.from_config(given)


@pytest.mark.parametrize("name", ["SmolLM3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen2MoeForCausalLM"])
def test_windows_that_are_listed_and_switched_off_are_an_error(name: str) -> None:
    """They were dropped, where Transformers computes with them or loads no such model."""
    types = ["sliding_attention"] * ROWS[name].config["num_hidden_layers"]
    with pytest.raises(CheckpointError, match="layers have a window that is switched off"):
        read(name, layer_types=types, sliding_window=16)
    if name == "Qwen2MoeForCausalLM":  # which computes with a window of no tokens even so
        return
    family, c, _ = read(name, layer_types=types, sliding_window=None)
    assert {mixer.window for mixer in family.graph(c).attentions()} == {0}


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("DeepseekV3ForCausalLM", {"mscale": 0.7, "mscale_all_dim": 0.7}, False),
        ("DeepseekV3ForCausalLM", {"mscale": 1.0, "mscale_all_dim": 0.7}, True),
        ("DeepseekV3ForCausalLM", {}, True),
        ("DeepseekV3ForCausalLM", {"rope_type": "linear"}, True),
        ("DeepseekV32ForCausalLM", {"mscale": 1.0, "mscale_all_dim": 1.0}, False),
        ("DeepseekV32ForCausalLM", {"mscale": 0.7, "mscale_all_dim": 0.7}, True),
    ],
)
def test_magnitudes_that_llama_cpp_takes_twice_are_told(name: str, settings: dict[str, Any], told: bool) -> None:
    _, _, said = read(name, rope_parameters={**YARN, **settings})
    assert any("square of the magnitude" in each for each in said) == told


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_queries_grow_from_the_first_context_on(kind: str) -> None:
    """However positions are stretched: it was taken of YaRN's settings only."""
    stretched = STRETCHED.get(kind, rope(1e4))
    settings = {**stretched, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 24}
    family, c, _ = read("Ministral3ForCausalLM", rope_parameters=settings)
    assert {mixer.temperature.length for mixer in family.graph(c).attentions()} == {24.0}
    config = family.to_config(c)
    back = registry.for_config(config).from_config(config)[0]
    assert (back.rope_context, back.temperature) == (24, c.temperature)


def test_sizes_of_feed_forwards_that_are_as_wide_as_the_model_are_said() -> None:
    """llama.cpp takes one that is not said for 0, which only models without such layers are."""
    family, c, _ = read("Glm4MoeForCausalLM", intermediate_size=64)
    assert configs.to_metadata(c, family.name)["glm4moe.feed_forward_length"] == 64
    family, c, _ = read("SolarOpenForCausalLM")
    assert "glm4moe.feed_forward_length" not in configs.to_metadata(c, family.name)


def test_no_expert_is_used_where_there_are_none() -> None:
    family, c, _ = read("GraniteMoeHybridForCausalLM/dense", num_experts_per_tok=2)
    assert configs.to_metadata(c, family.name)["granitehybrid.expert_used_count"] == 0


def test_the_epsilon_of_the_delta_rule_is_told_where_llama_cpp_has_another() -> None:
    for eps, told in ((1e-6, False), (1e-3, True)):
        _, _, said = read("Qwen3NextForCausalLM", rms_norm_eps=eps)
        assert any("length 1" in each for each in said) == told


def test_factors_of_rotations_that_llama_cpp_loads_and_does_not_use_are_told() -> None:
    for name, told in (("FalconH1ForCausalLM", True), ("LlamaForCausalLM", False)):
        _, _, said = read(name, rope_parameters=STRETCHED["llama3"])
        assert any("does not turn by rope_freqs.weight" in each for each in said) == told
