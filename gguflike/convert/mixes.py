"""The mixes of llama.cpp's llama-quantize, so that a file called Q4_K_M here is what the name means elsewhere.

A mix is a type and ordered rules; the first rule that fits a tensor decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguflike.container.file_types import file_type_number
from gguflike.convert.facts import Facts, category

Layers = Callable[[int, int], bool]  # (place, number of places), see Facts.place
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
    """Llama 2 70B and its like, whose attn_v is so small that more bits cost nothing."""
    return facts.wide


def lean(facts: Facts) -> bool:
    """Falcon and its like: fewer bits for attn_output and ffn_down, more for the output matrix."""
    return facts.lean


def with_imatrix(facts: Facts) -> bool:
    return facts.imatrix


def wide_gqa4(facts: Facts) -> bool:
    return facts.wide and facts.gqa >= 4


def no_imatrix(facts: Facts) -> bool:
    return not facts.imatrix


@dataclass(frozen=True)
class Rule:
    """Tensors of these categories, in these layers, of models where ``when`` holds, are stored as ``type``.

    ``stacked``: only where one tensor holds the matrices of all experts.
    """

    categories: str  # one or more, separated by spaces
    type: str
    layers: Layers | None = None
    when: When | None = None
    stacked: bool = False

    def fits(self, name: str, shape: tuple[int, ...], facts: Facts, counted: bool) -> bool:
        """Whether the rule is for a tensor of ``shape``; ``counted`` as in `Facts.place`."""
        known = category(name)
        if known == "token_embd" and facts.tied:
            known = "output"  # the embedding of a tied model is its output matrix
        if known not in self.categories.split() or (self.stacked and len(shape) < 3):
            return False
        if self.layers is not None and not self.layers(*facts.place(name, counted)):
            return False
        return self.when is None or self.when(facts)


@dataclass(frozen=True)
class Recipe:
    """A named mix: a type, and rules for tensors that get another.

    ``wants_imatrix``: llama.cpp refuses to go without an importance matrix. ``alias`` is a second name, ``mix``
    llama.cpp's name for it where that differs. ``counted``: rules for layers count feed-forward matrices, also in
    models with several in a layer. ``pure``: the type without any rules, if another than ``type``.
    """

    name: str
    type: str
    rules: tuple[Rule, ...] = ()
    wants_imatrix: bool = False
    alias: str = ""
    mix: str = ""
    counted: bool = False
    pure: str = ""

    @property
    def file_type(self) -> int:
        """The number of the mix in general.file_type."""
        return file_type_number(self.mix or self.name)


_OUT8 = Rule("output", "Q8_0", when=lean)
_OUT6 = (_OUT8, Rule("output", "Q6_K"))
_EXPERTS_VK = Rule("attn_v attn_k", "Q8_0", when=experts8)
_EXPERTS_O = Rule("attn_output", "Q5_K", when=experts8)
_WIDE_V = Rule("attn_v", "Q5_K", when=wide)
_WIDE_V4 = Rule("attn_v", "Q5_K", when=wide_gqa4)
_K = (*_OUT6, _EXPERTS_VK)


def _low(embedding: str, better: str, output: str | None) -> tuple[Rule, ...]:
    """The mixes around two bits and below: attention values, the first layers and the embedding get ``better``."""
    return (
        _OUT8,
        Rule("output", "Q5_K"),
        Rule("token_embd", embedding),
        Rule("attn_v", "Q4_K", when=gqa4_or_experts),
        Rule("attn_v", better),
        Rule("attn_k", "Q4_K", when=experts8),
        Rule("ffn_down", better, first_eighth),
        _EXPERTS_O,
        *((Rule("attn_output", output),) if output else ()),
    )


_IQ3_XXS = (
    _OUT8,
    Rule("output", "Q5_K"),
    Rule("token_embd", "IQ3_S"),
    _EXPERTS_VK,
    _WIDE_V4,
    Rule("attn_v", "Q4_K", when=gqa4),
    Rule("attn_v", "IQ3_S", when=no_imatrix),
    Rule("attn_q attn_k", "IQ2_S"),
    Rule("ffn_down", "Q4_K", first_eighth, no_imatrix),
    Rule("ffn_down", "Q3_K", when=no_imatrix),
    _EXPERTS_O,
    Rule("attn_output", "IQ3_XXS", when=lean),
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

RECIPES = (
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
        (
            *_K,
            Rule("attn_v", "Q5_K", first_four),
            _WIDE_V,
            Rule("ffn_down", "Q4_K", when=lean),
            Rule("ffn_down", "Q5_K", first_eighth),
            _EXPERTS_O,
        ),
    ),
    Recipe(
        "Q4_K_M",
        "Q4_K",
        (
            *_K,
            Rule("attn_v", "Q6_K", more_bits),
            _WIDE_V,
            Rule("ffn_down", "Q6_K", first_sixteenth, lean),
            Rule("ffn_down", "Q5_K", more_bits, lean),
            Rule("ffn_down", "Q4_K", when=lean),
            Rule("ffn_down", "Q6_K", more_bits),
            _EXPERTS_O,
        ),
        alias="Q4_K",
    ),
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
            Rule("ffn_down", "Q4_K", more_bits, lean),
            Rule("ffn_down attn_output", "Q3_K", when=lean),
            Rule("ffn_down", "Q4_K"),
            _EXPERTS_O,
            Rule("attn_output", "Q4_K"),
        ),
        alias="Q3_K",
    ),
    Recipe(
        "Q3_K_L",
        "Q3_K",
        (
            *_K,
            Rule("ffn_down attn_output", "Q4_K", when=lean),
            Rule("attn_output", "Q3_K", when=experts8),
            Rule("attn_v ffn_down attn_output", "Q5_K"),
        ),
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
            Rule("attn_output", "Q2_K", when=lean),
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
            Rule("attn_output", "IQ3_S", when=lean),
            Rule("attn_output", "Q4_K"),
        ),
    ),
    Recipe("IQ3_S", "IQ3_S", (*_K, _WIDE_V4, Rule("attn_v", "Q4_K", when=gqa4), _EXPERTS_O)),
    Recipe("IQ3_XS", "IQ3_S", _IQ3_XS, wants_imatrix=True),
    Recipe("IQ3_XXS", "IQ3_XXS", _IQ3_XXS, wants_imatrix=True),
    Recipe("IQ2_M", "IQ2_S", _low("IQ3_S", "IQ3_S", "IQ3_S"), wants_imatrix=True, counted=True),
    Recipe("IQ2_S", "IQ2_XS", _low("IQ3_S", "IQ3_S", "IQ3_S"), wants_imatrix=True, counted=True),
    Recipe("IQ2_XS", "IQ2_XS", _low("Q2_K", "Q2_K", None), wants_imatrix=True, counted=True),
    Recipe("IQ2_XXS", "IQ2_XXS", _low("Q2_K", "Q2_K", None), wants_imatrix=True, counted=True),
    Recipe("IQ1_M", "IQ1_M", _low("Q2_K", "Q2_K", "IQ2_XXS"), wants_imatrix=True, counted=True),
    Recipe("IQ1_S", "IQ1_S", _low("Q2_K", "Q2_K", "IQ2_XXS"), wants_imatrix=True, counted=True),
    Recipe("TQ1_0", "TQ1_0", (*_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
    Recipe("TQ2_0", "TQ2_0", (*_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
    # llama.cpp's mix: MXFP4 for experts only (it takes MLA's stacks of heads for experts; here these have 8 bits).
    Recipe("MXFP4_MOE", "Q8_0", (Rule("ffn_gate ffn_up ffn_down", "MXFP4", stacked=True),), pure="MXFP4"),
    # For models without experts: every matrix but the embedding and the output.
    Recipe("MXFP4", "MXFP4", (Rule("output token_embd", "Q8_0"),), mix="MXFP4_MOE"),
    Recipe("NVFP4", "NVFP4", (Rule("output token_embd", "Q8_0"),)),
    Recipe("Q1_0", "Q1_0", _K),
    Recipe("Q2_0", "Q2_0", (*_OUT6, Rule("token_embd", "Q4_K"), _EXPERTS_VK)),
)

#: llama-quantize's way to write a file anew without touching a tensor: to merge shards, leave layers out, set a key.
COPY = Recipe("COPY", "F32")
