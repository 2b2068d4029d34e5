"""Recipes: which block type each tensor gets.

The mixes stand in mixes.py. Where no rule of a recipe fits a tensor, the recipe's own type is used; where the rows of a
tensor are no multiple of the type's block, a type with a smaller block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.convert import mixes
from gguflike.convert.facts import Facts, category
from gguflike.convert.mixes import Recipe
from gguflike.errors import ArgumentError, ArgumentTypeError, check_text, did_you_mean
from gguflike.kernels.table import KERNELS

Overrides = tuple[tuple[re.Pattern[str], BlockFormat], ...]

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in mixes.RECIPES}
ALIASES: Mapping[str, str] = {recipe.alias: recipe.name for recipe in reversed(mixes.RECIPES) if recipe.alias}


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
        known = [*RECIPES, *ALIASES]
        threads = "threads are `threads`" if key.isdecimal() else None  # -t of llama.cpp's programs
        raise ArgumentError(
            "unknown type",
            field="type",
            expected="one of " + ", ".join(known),
            got=repr(name),
            remedy=threads or did_you_mean(name, known),
        )
    return recipe


def half_type(dtypes: Iterable[str]) -> str:
    """The 16-bit type of a checkpoint, by the dtypes of its matrices: that of the first which has one, else F16."""
    formats = (FORMATS.get(dtype) for dtype in dtypes)
    return next((fmt.name for fmt in formats if fmt is not None and fmt.is_float and fmt.row_bytes(1) == 2), "F16")


def choose(
    recipe: Recipe,
    name: str,
    shape: tuple[int, ...],
    facts: Facts,
    overrides: Overrides = (),
) -> Choice:
    """The type of one quantizable tensor of ``shape`` (numpy order)."""
    for pattern, fmt in overrides:
        if pattern.search(name):
            return Choice(fitting(fmt, shape[-1]), fmt)
    careful = facts.storage.careful
    if careful is not None and careful.search(name) and format_by_name(recipe.type).is_quantized:
        return Choice(fitting(format_by_name("Q8_0"), shape[-1]), format_by_name("Q8_0"))
    rule = next((rule for rule in recipe.rules if rule.fits(name, shape, facts, recipe.counted)), None)
    wanted = format_by_name(rule.type if rule else recipe.type)
    is_output = name == "output.weight" or (facts.tied and category(name) == "token_embd")
    if is_output and wanted.is_quantized and shape[-1] % wanted.block_size:
        return Choice(fitting(format_by_name("Q8_0"), shape[-1]), wanted)  # the output never goes below 8 bits for it
    return Choice(fitting(wanted, shape[-1]), wanted)


def fitting(fmt: BlockFormat, columns: int) -> BlockFormat:
    """``fmt``, or what takes its place where its blocks do not divide rows of ``columns``."""
    if columns % fmt.block_size == 0:
        return fmt
    fallback = format_by_name(fmt.fallback)
    return fallback if columns % fallback.block_size == 0 else format_by_name("F16")


def overrides(texts: Sequence[str]) -> Overrides:
    """Each ``REGEX=TYPE`` of a list, parsed. Errors as of ``override``, ArgumentTypeError for a string alone."""
    if isinstance(texts, str | bytes):
        raise ArgumentTypeError("not a list", field="tensor_types", expected="a list of REGEX=TYPE", got=repr(texts))
    return tuple(override(text) for text in texts)


def override(text: str) -> tuple[re.Pattern[str], BlockFormat]:
    """A ``REGEX=TYPE``, parsed; the case of letters is ignored. ArgumentError where either half is not valid."""
    check_text("tensor_types", text)
    pattern, separator, name = text.rpartition("=")
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ArgumentError(f"not a regular expression: {error}", field="tensor_types", got=repr(text)) from None
    if not separator or not pattern:
        raise ArgumentError("not an override", field="tensor_types", expected="REGEX=TYPE", got=repr(text))
    return compiled, weight_type(name)


def weight_type(name: str) -> BlockFormat:
    """The block type of a name, for weights. ArgumentError where there is none, or it is not multiplied with: integers,
    types of activations."""
    fmt = format_by_name(name)
    known = [row.name for row in KERNELS.values() if row.record or row.floats]
    if fmt.name not in known:
        raise ArgumentError("no type of weights", expected="one of " + ", ".join(known), got=repr(name))
    return fmt
