"""Recipes: which type each tensor gets. Expectations are llama-quantize's own choices; tests/interop asks it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from gguflike.blocks import FORMATS
from gguflike.convert import recipe as recipes
from gguflike.convert.recipe import RECIPES, Facts, by_name, category, choose, override, quantizable
from gguflike.errors import UnsupportedError
from gguflike.kernels.table import KERNELS

GOLDEN = Path(__file__).parent / "goldens" / "recipes.json"
LAYERS = 32
PER_LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def types(name: str, columns: int = 256, **facts: object) -> dict[str, str]:
    """Types of a model's matrices; ``facts`` as in Facts."""
    known = Facts(n_layer=LAYERS, **facts)  # type: ignore[arg-type]
    names = ["token_embd.weight", *(f"blk.{i}.{role}.weight" for i in range(LAYERS) for role in PER_LAYER)]
    if not known.tied:
        names.append("output.weight")
    return {each: choose(by_name(name), each, (columns, columns), known).format.name for each in names}


def layers(chosen: dict[str, str], role: str, kind: str) -> list[int]:
    return [i for i in range(LAYERS) if chosen[f"blk.{i}.{role}.weight"] == kind]


def goldens() -> list[dict[str, Any]]:
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("model", dict.fromkeys(row["model"] for row in goldens()))
def test_types_are_those_of_llama_quantize(model: str) -> None:
    """Every recipe, with and without importance, on models of every kind that rules tell apart."""
    rows = [row for row in goldens() if row["model"] == model]
    assert len(rows) > 30
    for row in rows:
        facts = Facts(row["layers"], row["group"], row["experts"], imatrix=row["imatrix"])
        for role, runs in list(row.items())[6:]:
            kinds = [run.partition("*")[::2] for run in runs.split()]  # a type, and in how many layers if not in all
            wanted = [kind for kind, count in kinds for _ in range(int(count or row["layers"]))]
            for layer, want in enumerate(wanted):
                name = f"{role}.weight" if role in ("token_embd", "output") else f"blk.{layer}.{role}.weight"
                chosen = choose(by_name(row["recipe"]), name, (256, 256), facts)
                assert chosen.format.name == want, (row["recipe"], row["imatrix"], name)


def test_importance_is_wanted_where_llama_quantize_refuses_to_go_without() -> None:
    """Where a matrix other than the embedding and the output gets one of these types; and for Q2_K_S."""
    needing = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
    for row in goldens():
        if row["model"] == "plain" and not row["imatrix"]:
            kinds = [runs.split() for role, runs in list(row.items())[6:] if role not in ("token_embd", "output")]
            used = {run.partition("*")[0] for runs in kinds for run in runs}
            wanted = row["recipe"] == "Q2_K_S" or not used.isdisjoint(needing)
            assert by_name(row["recipe"]).wants_imatrix is wanted, row["recipe"]


def test_file_types_are_those_of_llama_cpp() -> None:
    for name, recipe in RECIPES.items():
        if name in ("NVFP4", "Q1_0", "Q2_0"):  # newer than the gguf package
            continue
        known = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}.get(name, f"MOSTLY_{name}")
        assert gguf.LlamaFileType[known] == recipe.file_type, name
    assert len({recipe.file_type for recipe in RECIPES.values()}) == len(RECIPES)


def test_every_type_a_recipe_names_exists_and_every_large_block_has_a_substitute() -> None:
    for recipe in RECIPES.values():
        assert {recipe.type, *(rule.type for rule in recipe.rules)} <= FORMATS.keys()
    named = {recipe.type for recipe in RECIPES.values()} | {r.type for x in RECIPES.values() for r in x.rules}
    for name in named:
        if FORMATS[name].block_size > 32:
            assert FORMATS[FORMATS[name].fallback].block_size == 32, f"blocks/table.py: {name} needs a fallback"


def test_every_weight_type_is_the_main_type_of_a_recipe() -> None:
    weights = {name for name, row in KERNELS.items() if row.record or row.floats}
    missing = weights - {recipe.type for recipe in RECIPES.values()}
    assert not missing, f"convert/recipe.py: no recipe for {missing}"


def test_q4_k_m() -> None:
    chosen = types("Q4_K_M")
    more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert layers(chosen, "attn_v", "Q6_K") == layers(chosen, "ffn_down", "Q6_K") == more
    assert chosen["output.weight"] == "Q6_K"
    assert chosen["token_embd.weight"] == "Q4_K"
    assert types("Q4_K_M", tied=True)["token_embd.weight"] == "Q6_K"
    rest = {name for name, kind in chosen.items() if kind == "Q4_K"}
    assert len(rest) == 1 + 5 * LAYERS + 2 * (LAYERS - len(more))


def test_q2_k_and_grouped_attention() -> None:
    chosen = types("Q2_K")
    assert layers(chosen, "attn_v", "Q3_K") == layers(chosen, "ffn_down", "Q3_K") == list(range(LAYERS))
    assert layers(chosen, "attn_output", "Q3_K") == list(range(LAYERS))
    assert layers(chosen, "attn_q", "Q2_K") == layers(chosen, "ffn_up", "Q2_K") == list(range(LAYERS))
    assert layers(types("Q2_K", gqa=4), "attn_v", "Q4_K") == list(range(LAYERS))


@pytest.mark.parametrize(
    ("name", "role", "kind", "expected"),
    [
        ("Q4_K_S", "attn_v", "Q5_K", [0, 1, 2, 3]),
        ("Q4_K_S", "ffn_down", "Q5_K", [0, 1, 2, 3]),
        ("Q3_K_M", "attn_v", "Q5_K", [0, 1]),
        ("Q3_K_M", "attn_v", "Q4_K", list(range(2, 32))),
        ("Q3_K_M", "ffn_down", "Q5_K", [0, 1]),
        ("Q3_K_M", "attn_output", "Q4_K", list(range(32))),
        ("Q3_K_L", "attn_output", "Q5_K", list(range(32))),
        ("IQ4_XS", "ffn_down", "Q5_K", [0, 1, 2, 3]),
        ("IQ3_XS", "ffn_gate", "IQ3_XXS", list(range(4, 28))),
        ("IQ2_M", "ffn_down", "IQ3_S", [0, 1, 2, 3]),
        ("IQ1_S", "attn_output", "IQ2_XXS", list(range(32))),
        ("Q8_0", "attn_v", "Q8_0", list(range(32))),
    ],
)
def test_layers_with_more_bits(name: str, role: str, kind: str, expected: list[int]) -> None:
    assert layers(types(name), role, kind) == expected


def test_an_imatrix_changes_what_llama_cpp_changes() -> None:
    assert layers(types("Q4_0", imatrix=True), "ffn_down", "Q4_1") == [0, 1, 2, 3]
    assert layers(types("Q4_0"), "ffn_down", "Q4_1") == []
    assert layers(types("IQ4_XS", imatrix=True), "ffn_down", "Q5_K") == []
    assert layers(types("IQ3_XXS", imatrix=True), "ffn_down", "IQ3_XXS") == list(range(32))
    assert layers(types("IQ3_XXS"), "ffn_down", "Q4_K") == [0, 1, 2, 3]


def test_substitutions_where_the_block_does_not_divide_the_row() -> None:
    facts = Facts(n_layer=4)
    for wanted, got in [("IQ1_S", "IQ4_NL"), ("Q2_K", "IQ4_NL"), ("TQ2_0", "Q4_0"), ("Q4_K", "Q5_0"), ("Q6_K", "Q8_0")]:
        choice = choose(recipes.Recipe("X", wanted), "blk.0.ffn_up.weight", (8, 32 * 9), facts)
        assert (choice.format.name, choice.wanted.name) == (got, wanted)
    for columns in (48, 31):
        assert choose(by_name("Q4_K"), "blk.0.ffn_up.weight", (8, columns), facts).format.name == "F16"
        assert choose(by_name("Q8_0"), "blk.0.ffn_up.weight", (8, columns), facts).format.name == "F16"
    for rows in (8, 256):
        output = choose(by_name("IQ2_XS"), "output.weight", (rows, 288), facts)
        assert (output.format.name, output.wanted.name) == ("Q8_0", "Q5_K")
        assert choose(by_name("IQ2_XS"), "output.weight", (rows, 512), facts).format.name == "Q5_K"
    fitting = choose(by_name("Q4_K"), "blk.0.ffn_up.weight", (8, 512), facts)
    assert fitting.format is fitting.wanted


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (64, 64), True),
        ("blk.0.ffn_down_exps.weight", (8, 64, 64), True),
        ("token_embd.weight", (64, 64), True),
        ("blk.0.attn_norm.weight", (64,), False),
        ("blk.0.attn_q_norm.weight", (8, 64), False),
        ("blk.0.attn_q.bias", (64,), False),
        ("blk.0.attn_q.weight", (1, 64), False),
        ("blk.0.ffn_gate_inp.weight", (8, 64), False),
        ("position_embd.weight", (64, 64), False),
        ("rope_freqs.weight", (32,), False),
        ("output_norm.weight", (64, 2), False),
        ("blk.0.ssm_conv1d.weight", (64, 4), False),
    ],
)
def test_what_is_never_quantized(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert quantizable(name, shape) is expected


def test_categories() -> None:
    assert category("blk.3.attn_qkv.weight", tied=False) == "attn_v"
    assert category("blk.3.ffn_down_exps.weight", tied=False) == "ffn_down"
    assert category("token_embd.weight", tied=False) == "token_embd"
    assert category("token_embd.weight", tied=True) == "output"
    assert category("blk.3.attn_q_a.weight", tied=False) == "attn_q_a"


def test_overrides_come_first() -> None:
    rules = (override(r"blk\.[01]\..*=Q8_0"), override("attn_v=f16"))
    facts = Facts(n_layer=4)

    def kind(name: str) -> str:
        return choose(by_name("Q4_K_M"), name, (256, 256), facts, rules).format.name

    assert kind("blk.1.attn_v.weight") == "Q8_0"
    assert kind("blk.2.attn_v.weight") == "F16"
    assert kind("blk.2.attn_q.weight") == "Q4_K"
    assert choose(by_name("F16"), "blk.0.attn_v.weight", (8, 96), facts, (override("v=Q4_K"),)).format.name == "Q5_0"


@pytest.mark.parametrize("text", ["attn_v", "=Q8_0", "attn_v=Q9", "(=Q8_0", "attn_v="])
def test_bad_overrides(text: str) -> None:
    with pytest.raises(UnsupportedError):
        override(text)


def test_names_and_aliases() -> None:
    assert by_name("q4_k") is RECIPES["Q4_K_M"]
    assert by_name("iq4_xs").file_type == 30
    with pytest.raises(UnsupportedError, match=r"unknown type; expected one of F32, F16.*got 'Q4'"):
        by_name("Q4")
