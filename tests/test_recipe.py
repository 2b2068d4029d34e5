"""Recipes: which type each tensor gets. Expectations are llama-quantize's own choices; tests/interop asks it again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import pytest

from gguflike.blocks import FORMATS
from gguflike.convert.facts import Facts, category, facts, quantizable, single
from gguflike.convert.mixes import Recipe
from gguflike.convert.recipe import RECIPES, Choice, by_name, choose, override
from gguflike.errors import UnsupportedError
from gguflike.families.parts import role_of
from gguflike.kernels.table import KERNELS

GOLDEN = Path(__file__).parent / "goldens" / "recipes.json"
Shapes = dict[str, tuple[int, ...]]
LAYERS = 32
PER_LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def model(columns: int = 256, tied: bool = False, imatrix: bool = False, gqa: int = 1) -> tuple[Shapes, Facts]:
    """The matrices of a Llama, and what recipes ask about it."""
    names = ["token_embd.weight", *(f"blk.{i}.{role}.weight" for i in range(LAYERS) for role in PER_LAYER)]
    shapes = {name: (columns, columns) for name in names if not tied} | {"output.weight": (columns, columns)}
    if tied:
        shapes = dict.fromkeys(names, (columns, columns))
    keys = {"block_count": LAYERS, "attention.head_count": 8, "attention.head_count_kv": 8 // gqa}
    return shapes, facts(metadata("llama", keys), shapes, imatrix)


def metadata(architecture: str, keys: dict[str, Any]) -> dict[str, Any]:
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in keys.items()}


def types(name: str, **options: Any) -> dict[str, str]:
    """Types of a Llama's matrices; ``options`` as in `model`."""
    shapes, known = model(**options)
    return {each: choose(by_name(name), each, shape, known).format.name for each, shape in shapes.items()}


def layers(chosen: dict[str, str], role: str, kind: str) -> list[int]:
    return [i for i in range(LAYERS) if chosen[f"blk.{i}.{role}.weight"] == kind]


GOLDENS: dict[str, dict[str, Any]] = {row["model"]: row for row in json.loads(GOLDEN.read_text())}


def expand(golden: dict[str, Any]) -> Shapes:
    """Shapes by name of the tensors of a golden model, which says the layers of each as ``0-3,7``."""
    shapes: Shapes = {}
    for role, places in golden["tensors"].items():
        for shape, runs in places:
            for run in runs.split(",") if runs else [""]:
                first, _, last = run.partition("-")
                for layer in range(int(first), int(last or first) + 1) if run else [None]:
                    shapes[f"{role}.weight" if layer is None else f"blk.{layer}.{role}.weight"] = tuple(shape)
    return shapes


def expand_types(golden: dict[str, Any], row: dict[str, str]) -> dict[str, str]:
    """Types by name of a golden model's matrices; ``row`` says the types of each role from the first layer on."""
    kinds: dict[str, list[str]] = {}
    for role, runs in row.items():
        parts = [run.partition("*")[::2] for run in runs.split()] if role != "*" else []
        kinds[role] = [kind for kind, count in parts for _ in range(int(count or 1))]
    wanted = {}
    for name in sorted(expand(golden), key=lambda name: int(name.split(".")[1]) if name.startswith("blk.") else -1):
        role = role_of(name)[0]
        if role not in golden["kept"]:
            known = kinds.get(role, [row["*"]])
            wanted[name] = known.pop(0) if len(known) > 1 else known[0]
    return wanted


def deliberate(recipe: str, name: str, choice: Choice, want: str) -> bool:
    """Where recipes differ from llama-quantize, and why is said in spec/recipes.md."""
    if choice.wanted.name in ("Q2_K", "Q3_K") and want == "Q4_0":
        return choice.format.name == "IQ4_NL"
    if recipe == "MXFP4_MOE" and role_of(name)[0] in ("attn_k_b", "attn_v_b"):
        return want == "MXFP4" and choice.format.name == "Q8_0"
    return False


@pytest.mark.parametrize("title", GOLDENS)
def test_types_are_those_of_llama_quantize(title: str) -> None:
    """Every recipe, with and without importance, on models of every kind that rules tell apart."""
    golden = GOLDENS[title]
    shapes = expand(golden)
    keys = metadata(golden["architecture"], golden["keys"] | {"block_count": golden["block_count"]})
    assert len(golden["recipes"]) > 30
    known_by_importance = {given: facts(keys, shapes, given) for given in (False, True)}
    known = known_by_importance[False]
    kept = {role_of(name)[0] for name, shape in shapes.items() if not known.quantizable(name, shape)}
    assert kept == set(golden["kept"])
    for row, kinds in golden["recipes"].items():
        recipe, _, importance = row.partition(" with ")
        known = known_by_importance[bool(importance)]
        for name, want in expand_types(golden, kinds).items():
            choice = choose(by_name(recipe), name, shapes[name], known)
            assert choice.format.name == want or deliberate(recipe, name, choice, want), (row, name, want)


def test_every_recipe_of_llama_quantize_has_goldens() -> None:
    """NVFP4 is none of its targets, F32 changes nothing of an F32 file; MXFP4 is ours, for models without experts."""
    assert set(RECIPES) - set(GOLDENS["plain"]["recipes"]) == {"F32", "NVFP4", "MXFP4"}


def test_an_override_does_not_move_the_layers_of_other_tensors() -> None:
    """llama-quantize counts on without the tensors that an override names, so that its mix begins a layer late."""
    shapes, known = model()
    rules = (override(r"blk\.0\.(attn_v|ffn_down)=Q8_0"),)
    chosen = {n: choose(by_name("Q4_K_M"), n, shape, known, rules).format.name for n, shape in shapes.items()}
    changed = {name for name, kind in types("Q4_K_M").items() if chosen[name] != kind}
    assert changed == {"blk.0.attn_v.weight", "blk.0.ffn_down.weight"}


def test_importance_is_wanted_where_llama_quantize_refuses_to_go_without() -> None:
    """Where a matrix other than the embedding and the output gets one of these types; and for Q2_K_S."""
    needing = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
    golden = GOLDENS["plain"]
    for recipe, row in golden["recipes"].items():
        if "importance" not in recipe:
            kinds = expand_types(golden, row)
            used = {kind for name, kind in kinds.items() if name not in ("token_embd.weight", "output.weight")}
            wanted = recipe == "Q2_K_S" or not used.isdisjoint(needing)
            assert by_name(recipe).wants_imatrix is wanted, recipe


def test_file_types_are_those_of_llama_cpp() -> None:
    for name, recipe in RECIPES.items():
        if name in ("NVFP4", "Q1_0", "Q2_0"):  # newer than the gguf package
            continue
        known = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}.get(name, f"MOSTLY_{name}")
        assert gguf.LlamaFileType[known] == recipe.file_type, name
    numbers = {recipe.file_type for name, recipe in RECIPES.items() if name != "MXFP4"}  # that of MXFP4_MOE
    assert len(numbers) == len(RECIPES) - 1


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
    known = Facts(n_layer=4)
    for wanted, got in [("IQ1_S", "IQ4_NL"), ("Q2_K", "IQ4_NL"), ("TQ2_0", "Q4_0"), ("Q4_K", "Q5_0"), ("Q6_K", "Q8_0")]:
        choice = choose(Recipe("X", wanted), "blk.0.ffn_up.weight", (8, 32 * 9), known)
        assert (choice.format.name, choice.wanted.name) == (got, wanted)
    for columns in (48, 31):
        assert choose(by_name("Q4_K"), "blk.0.ffn_up.weight", (8, columns), known).format.name == "F16"
        assert choose(by_name("Q8_0"), "blk.0.ffn_up.weight", (8, columns), known).format.name == "F16"
    for rows in (8, 256):
        output = choose(by_name("IQ2_XS"), "output.weight", (rows, 288), known)
        assert (output.format.name, output.wanted.name) == ("Q8_0", "Q5_K")
        assert choose(by_name("IQ2_XS"), "output.weight", (rows, 512), known).format.name == "Q5_K"
    fitting = choose(by_name("Q4_K"), "blk.0.ffn_up.weight", (8, 512), known)
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
        ("v.blk.0.attn_rel_pos.weight", (64, 64), True),
        ("v.position_embd.weight", (64, 64), False),
        ("blk.0.ffn_gate_exps.scale", (8, 2), False),
    ],
)
def test_what_is_never_quantized(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert quantizable(name, shape) is expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (64, 64), False),
        ("blk.0.attn_q.bias", (64,), True),
        ("blk.0.ffn_up_exps.bias", (8, 64), True),
        ("blk.0.ffn_gate_inp.weight", (8, 64), True),
        ("blk.0.ffn_gate_inp_shexp.weight", (1, 64), True),
        ("blk.0.ssm_norm.weight", (2, 64), True),
        ("blk.0.ssm_a", (64, 1), True),
        ("blk.0.indexer.proj.weight", (8, 64), True),
        ("blk.0.indexer.k_proj.weight", (8, 64), False),
        ("per_layer_model_proj.weight", (64, 64), False),
        ("token_types.weight", (2, 64), True),
    ],
)
def test_what_the_converter_stores_as_float32(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert single(name, shape) is expected


def test_categories() -> None:
    assert category("blk.3.attn_qkv.weight") == "attn_v"
    assert category("blk.3.ffn_down_exps.weight") == "ffn_down"
    assert category("blk.3.ffn_gate_up_exps.weight") == "ffn_gate"
    assert category("token_embd.weight") == category("per_layer_token_embd.weight") == "token_embd"
    assert category("blk.3.attn_q_a.weight") == "other"
    assert category("dec.blk.3.cross_attn_v.weight") == "attn_v"


def test_overrides_come_first() -> None:
    rules = (override(r"blk\.[01]\..*=Q8_0"), override("attn_v=f16"))
    known = Facts(n_layer=4)

    def kind(name: str) -> str:
        return choose(by_name("Q4_K_M"), name, (256, 256), known, rules).format.name

    assert kind("blk.1.attn_v.weight") == "Q8_0"
    assert kind("blk.2.attn_v.weight") == "F16"
    assert kind("blk.2.attn_q.weight") == "Q4_K"
    assert choose(by_name("F16"), "blk.0.attn_v.weight", (8, 96), known, (override("v=Q4_K"),)).format.name == "Q5_0"


def test_facts_where_a_file_says_little() -> None:
    """As llama.cpp: keys and values have as many heads as queries, and layers are counted by the tensors."""
    shapes: Shapes = {"token_embd.weight": (8, 256), "blk.79.attn_v.weight": (8, 256), "output.weight": (8, 256)}
    known = facts(metadata("llama", {"attention.head_count": 8}), shapes, False)
    assert (known.n_layer, known.gqa, known.tied, known.wide, known.n_values) == (80, 1, False, False, 1)
    grouped = facts(metadata("llama", {"attention.head_count": 8, "attention.head_count_kv": 2}), shapes, True)
    assert (grouped.gqa, grouped.wide, grouped.imatrix) == (4, True, True)
    nothing = facts(metadata("mamba2", {}), {}, False)
    assert (nothing.n_layer, nothing.gqa, nothing.n_expert, nothing.tied, nothing.wide) == (0, 0, 0, True, False)


@pytest.mark.parametrize("value", [8.5, "8", [], ["8"], [8.5], math.nan])
def test_numbers_that_are_none_say_nothing(value: Any) -> None:
    """What is wrong with a file's keys is for those who compute with them to say."""
    shapes: Shapes = {"token_embd.weight": (8, 256), "blk.3.attn_v.weight": (8, 256)}
    keys = dict.fromkeys(("attention.head_count", "block_count", "expert_count"), value)
    known = facts(metadata("llama", keys), shapes, False)
    assert (known.n_layer, known.gqa, known.n_expert) == (4, 0, 0)


@pytest.mark.parametrize("text", ["attn_v", "=Q8_0", "attn_v=Q9", "(=Q8_0", "attn_v="])
def test_bad_overrides(text: str) -> None:
    with pytest.raises(UnsupportedError):
        override(text)


def test_names_and_aliases() -> None:
    assert by_name("q4_k") is RECIPES["Q4_K_M"]
    assert by_name("iq4_xs").file_type == 30
    with pytest.raises(UnsupportedError, match=r"unknown type; expected one of F32, F16.*got 'Q4'"):
        by_name("Q4")
