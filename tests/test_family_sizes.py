"""Sizes of one family whose graphs differ: what follows from the number of layers, a context, or a switch.

The numbers are those of the published config.json. Each graph must also come out of the keys of a GGUF file.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from gguflike.families import config as configs
from gguflike.families import registry
from gguflike.families.parts import Attention, Graph, Head


def graph_of(model_class: str, **config: Any) -> Graph:
    """The graph of a config.json, which is also that of the file made of it."""
    config = {"architectures": [model_class], **config}
    family = registry.for_config(config)
    c, _ = family.from_config(config)
    graph: Graph = family.graph(c)
    metadata = configs.to_metadata(c, family.name)
    metadata["tokenizer.ggml.tokens"] = ["x"] * config["vocab_size"]
    names = {place.name for place in graph.tensors() if place.tensor.used}
    again = configs.from_gguf(family.config, family.name, metadata, names)
    # numbers in lists reach a file as tensors
    lists = {p.name: getattr(c, p.name) for p in configs.parameters(family.config) if p.key.listed}
    assert family.graph(configs.changed(again, **lists)) == graph
    return graph


def sizes(hidden: int, layers: int, heads: int, kv: int, ff: int, vocab: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ff,
        "vocab_size": vocab,
        "max_position_embeddings": 131072,
        **more,
    }


GEMMA2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}
GEMMA3 = {
    "sliding_window": 1024,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}


@pytest.mark.parametrize(
    ("model_class", "config", "scalar"),
    [
        ("Gemma2ForCausalLM", sizes(3584, 42, 16, 8, 14336, head_dim=256, query_pre_attn_scalar=256, **GEMMA2), 256),
        ("Gemma2ForCausalLM", sizes(4608, 46, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144, **GEMMA2), 144),
        ("Gemma3ForCausalLM", sizes(2560, 34, 8, 4, 10240, head_dim=256, query_pre_attn_scalar=256, **GEMMA3), 256),
        ("Gemma3ForCausalLM", sizes(5376, 62, 32, 16, 21504, head_dim=128, query_pre_attn_scalar=168, **GEMMA3), 168),
    ],
    ids=["gemma2-9b", "gemma2-27b", "gemma3-4b", "gemma3-27b"],
)
def test_gemma_scales_scores_of_its_largest_models_by_another_number(
    model_class: str, config: dict[str, Any], scalar: int
) -> None:
    """GGUF has no key for it: readers know the largest by its layers."""
    graph = graph_of(model_class, **config)
    (scale,) = {part.scale for part in graph.attentions()}
    assert scale == pytest.approx(scalar**-0.5)


@pytest.mark.parametrize(
    ("layers", "windowed"),
    [(62, [i % 6 < 5 for i in range(62)]), (34, [i % 6 < 5 for i in range(34)])],
    ids=["27b", "4b"],
)
def test_gemma3_ends_within_a_period_of_its_windows(layers: int, windowed: list[bool]) -> None:
    config = sizes(256, layers, 2, 1, 512, head_dim=128, query_pre_attn_scalar=128, **GEMMA3)
    parts = list(graph_of("Gemma3ForCausalLM", **config).attentions())
    assert [bool(part.window) for part in parts] == windowed
    assert [rope.base for part in parts for rope in part.ropes] == [1e4 if each else 1e6 for each in windowed]


def test_exaone4_has_windows_and_layers_that_do_not_turn_only_where_it_is_large() -> None:
    llama3 = {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    common = {"rope_theta": 1e6, "rope_scaling": llama3}
    large = sizes(5120, 64, 40, 8, 27392, sliding_window=4096, sliding_window_pattern="LLLG", head_dim=128, **common)
    parts = list(graph_of("Exaone4ForCausalLM", **large).attentions())
    assert [part.window for part in parts] == [4096, 4096, 4096, 0] * 16
    assert [part.rope is not None for part in parts] == [True, True, True, False] * 16
    small = sizes(2048, 30, 32, 8, 4096, sliding_window=None, tie_word_embeddings=True, head_dim=64, **common)
    parts = list(graph_of("Exaone4ForCausalLM", **small).attentions())
    assert {part.window for part in parts} == {0}
    assert None not in {part.rope for part in parts}


def phi3(**changes: Any) -> Attention:
    config = sizes(3072, 2, 32, 32, 8192, rms_norm_eps=1e-5, rope_theta=1e4, **changes)
    return next(graph_of("Phi3ForCausalLM", **config).attentions())


def test_phi3_of_short_contexts_has_a_window_and_one_rotation() -> None:
    part = phi3(max_position_embeddings=4096, original_max_position_embeddings=4096, sliding_window=2047)
    assert part.window == 2047
    assert part.rope is not None
    assert part.rope.scaling is None


def test_phi3_of_long_contexts_has_two_lists_of_divisors_and_no_window() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    part = phi3(rope_scaling=scaling, original_max_position_embeddings=4096, sliding_window=262144)
    assert part.window == 0
    assert part.rope is not None
    assert part.rope.divisors == ("rope_factors_long.weight", "rope_factors_short.weight")
    assert part.rope.scaling is not None
    assert part.rope.scaling.context == 4096
    assert part.rope.scaling.magnitude == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_phi4_mini_turns_three_quarters_of_a_head() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    config = sizes(
        3072,
        2,
        24,
        8,
        8192,
        rms_norm_eps=1e-5,
        partial_rotary_factor=0.75,
        rope_scaling=scaling,
        original_max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    graph = graph_of("Phi3ForCausalLM", **config)
    (rope,) = graph.ropes()
    assert rope.n_rot == 96
    assert isinstance(graph.head, Head)
    assert graph.head.tied


@pytest.mark.parametrize(
    ("config", "tied"), [(sizes(1024, 28, 16, 8, 3072), True), (sizes(4096, 36, 32, 8, 12288), False)]
)
def test_qwen3_is_tied_where_it_is_small(config: dict[str, Any], tied: bool) -> None:
    graph = graph_of("Qwen3ForCausalLM", **config, head_dim=128, tie_word_embeddings=tied)
    assert isinstance(graph.head, Head)
    assert graph.head.tied is tied
    assert any(place.name == "output.weight" and place.tensor.used for place in graph.tensors()) is not tied
    assert {part.q_size for part in graph.attentions()} == {128 * config["num_attention_heads"]}
