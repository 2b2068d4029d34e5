"""Recipes: which block type each tensor gets, as ordered rules over what the tensor does.

The mixes are those of llama.cpp's llama-quantize, so that a file called Q4_K_M here is what the name means elsewhere.
The first rule that fits a tensor decides; where none does, the recipe's own type is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gguflike.blocks import BlockFormat, format_by_name
from gguflike.container.file_types import file_type_number
from gguflike.errors import ArgumentError, ArgumentTypeError, check_text
from gguflike.families.parts import role_of


@dataclass(frozen=True)
class Facts:
    """What rules may ask about a model. ``tied``: the embedding is also the output matrix."""

    n_layer: int
    gqa: int = 1  # query heads per key-value head
    n_expert: int = 0
    tied: bool = False
    imatrix: bool = False

    @property
    def wide(self) -> bool:
        """Llama 2 70B and its like, whose attn_v is so small that more bits cost nothing."""
        return self.n_layer == 80 and self.gqa > 1


Layers = Callable[[int, int], bool]  # (layer, number of layers)
When = Callable[[Facts], bool]


def first_eighth(layer: int, n: int) -> bool:
    return layer < n // 8


def first_sixteenth(layer: int, n: int) -> bool:
    return layer < n // 16


def first_two(layer: int, n: int) -> bool:  # noqa: ARG001 - one signature
    return layer < 2


def first_four(layer: int, n: int) -> bool:  # noqa: ARG001
    return layer < 4


def middle(layer: int, n: int) -> bool:
    return n // 8 <= layer < 7 * n // 8


def more_bits(layer: int, n: int) -> bool:
    """The first and last eighth, and every third layer between."""
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2


def gqa4(facts: Facts) -> bool:
    return facts.gqa >= 4


def gqa4_or_experts(facts: Facts) -> bool:
    return facts.gqa >= 4 or facts.n_expert >= 4


def experts8(facts: Facts) -> bool:
    return facts.n_expert == 8


def wide(facts: Facts) -> bool:
    return facts.wide


def with_imatrix(facts: Facts) -> bool:
    return facts.imatrix


def wide_gqa4(facts: Facts) -> bool:
    return facts.wide and facts.gqa >= 4


def no_imatrix(facts: Facts) -> bool:
    return not facts.imatrix


@dataclass(frozen=True)
class Rule:
    """Tensors of these roles, in these layers, of models where ``when`` holds, are stored as ``type``."""

    roles: str  # one or more categories, separated by spaces
    type: str
    layers: Layers | None = None
    when: When | None = None

    def fits(self, role: str, layer: int, facts: Facts) -> bool:
        if role not in self.roles.split():
            return False
        return (self.layers is None or self.layers(layer, facts.n_layer)) and (self.when is None or self.when(facts))


@dataclass(frozen=True)
class Recipe:
    """A named mix: a type, and rules for tensors that get another.

    ``wants_imatrix``: llama.cpp refuses to go without an importance matrix. ``alias`` is a second name, ``mix``
    llama.cpp's name for it where that differs.
    """

    name: str
    type: str
    rules: tuple[Rule, ...] = ()
    wants_imatrix: bool = False
    alias: str = ""
    mix: str = ""

    @property
    def file_type(self) -> int:
        """The number of the mix in general.file_type."""
        return file_type_number(self.mix or self.name)


_OUT6 = Rule("output", "Q6_K")
_OUT5 = Rule("output", "Q5_K")
_EXPERTS_VK = Rule("attn_v attn_k", "Q8_0", when=experts8)
_EXPERTS_O = Rule("attn_output", "Q5_K", when=experts8)
_WIDE_V = Rule("attn_v", "Q5_K", when=wide)
_WIDE_V4 = Rule("attn_v", "Q5_K", when=wide_gqa4)
_K = (_OUT6, _EXPERTS_VK)


def _low(embedding: str, better: str, output: str | None) -> tuple[Rule, ...]:
    """The mixes around two bits and below: attention values, the first layers and the embedding get ``better``."""
    return (
        _OUT5,
        Rule("token_embd", embedding),
        Rule("attn_v", "Q4_K", when=gqa4_or_experts),
        Rule("attn_v", better),
        Rule("attn_k", "Q4_K", when=experts8),
        Rule("ffn_down", better, first_eighth),
        _EXPERTS_O,
        *((Rule("attn_output", output),) if output else ()),
    )


_IQ3_XXS = (
    _OUT5,
    Rule("token_embd", "IQ3_S"),
    _EXPERTS_VK,
    _WIDE_V4,
    Rule("attn_v", "Q4_K", when=gqa4),
    Rule("attn_v", "IQ3_S", when=no_imatrix),
    Rule("attn_q attn_k", "IQ2_S"),
    Rule("ffn_down", "Q4_K", first_eighth, no_imatrix),
    Rule("ffn_down", "Q3_K", when=no_imatrix),
    _EXPERTS_O,
    Rule("attn_output", "IQ3_S"),
)
_IQ3_XS = (
    *_K,
    _WIDE_V4,
    Rule("attn_v", "Q4_K", when=gqa4),
    Rule("attn_q attn_k", "IQ3_XXS"),
    _EXPERTS_O,
    Rule("ffn_gate ffn_up", "IQ3_XXS", middle),
)
_IQ4 = (
    *_K,
    Rule("attn_v", "Q5_K", when=gqa4),
    Rule("ffn_down", "Q5_K", first_eighth, no_imatrix),
    _EXPERTS_O,
)

_TABLE = (
    Recipe("F32", "F32"),
    Recipe("F16", "F16"),
    Recipe("BF16", "BF16"),
    Recipe("Q8_0", "Q8_0"),
    # Q4_0 and Q5_0 "can go crazy" in the first ffn_down even with an imatrix (llama.cpp's words).
    Recipe("Q4_0", "Q4_0", (*_K, Rule("ffn_down", "Q4_1", first_eighth, with_imatrix))),
    Recipe("Q4_1", "Q4_1", _K),
    Recipe("Q5_0", "Q5_0", (*_K, Rule("ffn_down", "Q5_1", first_eighth, with_imatrix))),
    Recipe("Q5_1", "Q5_1", _K),
    Recipe("Q6_K", "Q6_K", _K),
    Recipe("Q5_K_S", "Q5_K", _K),
    Recipe("Q5_K_M", "Q5_K", (*_K, Rule("attn_v ffn_down", "Q6_K", more_bits)), alias="Q5_K"),
    Recipe(
        "Q4_K_S",
        "Q4_K",
        (*_K, Rule("attn_v", "Q5_K", first_four), _WIDE_V, Rule("ffn_down", "Q5_K", first_eighth), _EXPERTS_O),
    ),
    Recipe("Q4_K_M", "Q4_K", (*_K, Rule("attn_v ffn_down", "Q6_K", more_bits), _WIDE_V, _EXPERTS_O), alias="Q4_K"),
    Recipe("Q3_K_S", "Q3_K", (*_K, _WIDE_V, _EXPERTS_O)),
    Recipe(
        "Q3_K_M",
        "Q3_K",
        (
            *_K,
            Rule("attn_v", "Q5_K", first_two),
            _WIDE_V,
            Rule("attn_v", "Q4_K"),
            Rule("ffn_down", "Q5_K", first_sixteenth),
            Rule("ffn_down", "Q4_K"),
            _EXPERTS_O,
            Rule("attn_output", "Q4_K"),
        ),
        alias="Q3_K",
    ),
    Recipe(
        "Q3_K_L",
        "Q3_K",
        (*_K, Rule("attn_output", "Q3_K", when=experts8), Rule("attn_v ffn_down attn_output", "Q5_K")),
    ),
    Recipe(
        "Q2_K",
        "Q2_K",
        (
            *_K,
            _WIDE_V,
            Rule("attn_v", "Q4_K", when=gqa4),
            Rule("attn_v ffn_down", "Q3_K"),
            _EXPERTS_O,
            Rule("attn_output", "Q3_K"),
        ),
    ),
    Recipe(
        "Q2_K_S",
        "Q2_K",
        (
            *_K,
            _WIDE_V4,
            Rule("attn_v", "Q4_K", when=gqa4),
            Rule("ffn_down", "Q4_K", first_eighth),
        ),
        wants_imatrix=True,
    ),
    Recipe("IQ4_NL", "IQ4_NL", _IQ4),
    Recipe("IQ4_XS", "IQ4_XS", _IQ4),
    Recipe(
        "IQ3_M",
        "IQ3_S",
        (
            *_K,
            _WIDE_V,
            Rule("attn_v", "Q4_K"),
            Rule("ffn_down", "Q4_K", first_eighth),
            Rule("ffn_down", "Q4_K", more_bits, experts8),
            _EXPERTS_O,
            Rule("attn_output", "Q4_K"),
        ),
    ),
    Recipe("IQ3_S", "IQ3_S", (*_K, _WIDE_V4, Rule("attn_v", "Q4_K", when=gqa4), _EXPERTS_O)),
    Recipe("IQ3_XS", "IQ3_S", _IQ3_XS, wants_imatrix=True),
    Recipe("IQ3_XXS", "IQ3_XXS", _IQ3_XXS, wants_imatrix=True),
    Recipe("IQ2_M", "IQ2_S", _low("IQ3_S", "IQ3_S", "IQ3_S"), wants_imatrix=True),
    Recipe("IQ2_S", "IQ2_XS", _low("IQ3_S", "IQ3_S", "IQ3_S"), wants_imatrix=True),
    Recipe("IQ2_XS", "IQ2_XS", _low("Q2_K", "Q2_K", None), wants_imatrix=True),
    Recipe("IQ2_XXS", "IQ2_XXS", _low("Q2_K", "Q2_K", None), wants_imatrix=True),
    Recipe("IQ1_M", "IQ1_M", _low("Q2_K", "Q2_K", "IQ2_XXS"), wants_imatrix=True),
    Recipe("IQ1_S", "IQ1_S", _low("Q2_K", "Q2_K", "IQ2_XXS"), wants_imatrix=True),
    Recipe("TQ1_0", "TQ1_0", (_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
    Recipe("TQ2_0", "TQ2_0", (_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
    # llama.cpp uses MXFP4 for expert tensors only; here for every matrix but the embedding and the output.
    Recipe("MXFP4", "MXFP4", (Rule("output token_embd", "Q8_0"),), mix="MXFP4_MOE"),
    Recipe("NVFP4", "NVFP4", (Rule("output token_embd", "Q8_0"),)),
    Recipe("Q1_0", "Q1_0", _K),
    Recipe("Q2_0", "Q2_0", (_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _TABLE}
ALIASES: Mapping[str, str] = {recipe.alias: recipe.name for recipe in reversed(_TABLE) if recipe.alias}

# The categories that rules speak of, by GGUF role; matrices of experts (ffn_down_exps) belong to the plain ones.
_VALUE_ROLES = ("attn_v", "attn_qkv", "attn_kv_b")
_FFN_ROLES = ("ffn_gate", "ffn_up", "ffn_down")
# Small or delicate matrices that llama.cpp never quantizes.
_KEPT = re.compile(
    r".*_norm(_\d+)?|ffn_gate_inp.*|ffn_gate_tid2eid|.*altup.*|.*laurel.*|per_layer_model_proj|position_embd|token_types"
    r"|ssm_conv1d.*|shortconv\.conv|indexer\.[kq]_proj|time_mix_(first|lerp_fused|[wvag]\d|decay_w\d)|attn_rel_b"
)


@dataclass(frozen=True)
class Choice:
    """The type for one tensor; ``wanted`` is what the rules said where the tensor's shape does not allow it."""

    format: BlockFormat
    wanted: BlockFormat


def by_name(name: str) -> Recipe:
    """The recipe called ``name``, in any case. ArgumentError lists the names."""
    check_text("type", name)
    key = name.upper()
    recipe = RECIPES.get(ALIASES.get(key, key))
    if recipe is None:
        raise ArgumentError("unknown type", expected="one of " + ", ".join([*RECIPES, *ALIASES]), got=repr(name))
    return recipe


def quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a weight matrix; norms, biases and the like stay as they are."""
    if sum(size > 1 for size in shape) < 2 or not name.endswith(".weight"):
        return False
    return _KEPT.fullmatch(role_of(name)[0]) is None


def category(name: str, tied: bool) -> str:
    """The role that rules speak of. The embedding of a tied model counts as its output matrix."""
    role = role_of(name)[0]
    if role == "token_embd" and tied:
        return "output"
    if role in _VALUE_ROLES:
        return "attn_v"
    if role == "per_layer_token_embd":
        return "token_embd"
    return next((known for known in _FFN_ROLES if role.startswith(known)), role)


def choose(
    recipe: Recipe,
    name: str,
    shape: tuple[int, ...],
    facts: Facts,
    overrides: tuple[tuple[re.Pattern[str], BlockFormat], ...] = (),
) -> Choice:
    """The type of one quantizable tensor of ``shape`` (numpy order)."""
    for pattern, fmt in overrides:
        if pattern.search(name):
            return Choice(_fitting(fmt, shape[-1]), fmt)
    role, layer = category(name, facts.tied), role_of(name)[1] or 0
    rule = next((rule for rule in recipe.rules if rule.fits(role, layer, facts)), None)
    wanted = format_by_name(rule.type if rule else recipe.type)
    if role == "output" and wanted.is_quantized and shape[-1] % wanted.block_size:
        return Choice(_fitting(format_by_name("Q8_0"), shape[-1]), wanted)  # the output never goes below 8 bits for it
    return Choice(_fitting(wanted, shape[-1]), wanted)


def _fitting(fmt: BlockFormat, columns: int) -> BlockFormat:
    if columns % fmt.block_size == 0:
        return fmt
    fallback = format_by_name(fmt.fallback)
    return fallback if columns % fallback.block_size == 0 else format_by_name("F16")


def overrides(texts: Sequence[str]) -> tuple[tuple[re.Pattern[str], BlockFormat], ...]:
    """Each ``REGEX=TYPE`` of a list, parsed. Errors as of ``override``, ArgumentTypeError for a string alone."""
    if isinstance(texts, str | bytes):
        raise ArgumentTypeError("not a list", field="tensor_types", expected="a list of REGEX=TYPE", got=repr(texts))
    return tuple(override(text) for text in texts)


def override(text: str) -> tuple[re.Pattern[str], BlockFormat]:
    """A ``REGEX=TYPE`` as given to --tensor-type. ArgumentError where either half is not valid."""
    check_text("tensor type", text)
    pattern, separator, name = text.rpartition("=")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"not a regular expression: {error}", field="tensor type", got=repr(text)) from None
    if not separator or not pattern:
        raise ArgumentError("not an override", field="tensor type", expected="REGEX=TYPE", got=repr(text))
    return compiled, format_by_name(name)
