"""What is asked for beside the recipe: types of single tensors, layers left out, metadata set by hand.

The words and what they mean are llama-quantize's. Each option is a keyword argument of `convert` and `quantize_file`,
and a flag of the commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from gguflike.blocks import BlockFormat, format_by_name
from gguflike.container import Typed
from gguflike.container.values import CODES, INTEGERS
from gguflike.convert import recipe as recipes
from gguflike.convert.facts import Facts, category, untyped
from gguflike.convert.mixes import Recipe
from gguflike.convert.recipe import Choice, fitting
from gguflike.errors import ArgumentError, ArgumentTypeError, check_integer, check_text

MAX_FILE = 1 << 20  # bytes of a file of tensor types; one line for each tensor of the largest models takes a tenth


class SelectionOptions(TypedDict, total=False):
    """The arguments as they are given.

    ``tensor_types``: ``REGEX=TYPE``, the first whose pattern is found in a tensor's name decides, in any case of
    letters; ``tensor_type_file``: a file of more of them, separated by white space.
    ``output_tensor_type``, ``token_embedding_type``: block types of the output matrix and of the embedding; an
    embedding that is also the output matrix has that of the output where only this is given.
    ``pure``: the recipe's own type for all weight matrices, without its exceptions. ``leave_output_tensor``: the output
    matrix keeps the type it has.
    ``include_weights``, ``exclude_weights``: only, or all but, those entries of the importance matrix that have one of
    these words in their name.
    ``prune_layers``: numbers of layers to leave out, from 0; those behind move up.
    ``override_kv``: metadata to set, as ``KEY=TYPE:VALUE`` with int, float, bool or str, or as a mapping.
    ``allow_requantize``: no notice that tensors are encoded anew that were quantized before.
    ``strict``: an UnsupportedError where the plan has notices or substitutions.
    """

    tensor_types: Sequence[str]
    tensor_type_file: str | os.PathLike[str] | None
    output_tensor_type: str | None
    token_embedding_type: str | None
    pure: bool
    leave_output_tensor: bool
    include_weights: Sequence[str]
    exclude_weights: Sequence[str]
    prune_layers: Sequence[int]
    override_kv: Sequence[str] | Mapping[str, Any]
    allow_requantize: bool
    strict: bool


@dataclass(frozen=True)
class Selection:
    """The same, checked. ``texts`` are the tensor types as they were given, ``files`` what was read for them."""

    tensor_types: recipes.Overrides = ()
    texts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    output: BlockFormat | None = None
    embedding: BlockFormat | None = None
    pure: bool = False
    leave_output: bool = False
    included: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    pruned: tuple[int, ...] = ()
    overridden: Mapping[str, Any] = field(default_factory=dict)
    allow_requantize: bool = False
    strict: bool = False

    def choose(self, recipe: Recipe, name: str, shape: tuple[int, ...], facts: Facts) -> Choice:
        """The type of one quantizable tensor of ``shape`` (numpy order), in llama-quantize's order of precedence."""
        known, columns = category(name), shape[-1]
        named = any(pattern.search(name) for pattern, _ in self.tensor_types)
        if self.embedding and known == "token_embd" and not (named and name != "token_embd.weight"):
            return Choice(fitting(self.embedding, columns), self.embedding)
        if self.output and known == "output":
            return Choice(fitting(self.output, columns), self.output)
        if self.pure and not named:
            only = format_by_name(recipe.pure or recipe.type)
            return Choice(fitting(only, columns), only)
        quantized = format_by_name(recipe.type).is_quantized
        if self.output and known == "token_embd" and facts.tied and quantized and not named:
            return Choice(fitting(self.output, columns), self.output)
        return recipes.choose(recipe, name, shape, facts, self.tensor_types)

    def keeps(self, name: str) -> bool:
        """Whether a weight matrix is to keep the type that it has."""
        return self.leave_output and name == "output.weight"

    def important(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of an importance matrix that are to be used, by the names that their tensors will have."""
        return {
            self.renamed(name): each
            for name, each in weights.items()
            if (not self.included or any(word in name for word in self.included))
            and not any(word in name for word in self.excluded)
            and not self.leaves_out(name)
        }

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor is of a layer that is left out."""
        match = _LAYER.search(name)
        return match is not None and int(match[1]) in self.pruned

    def renamed(self, name: str) -> str:
        """The name of a tensor, with its layer counted without those that are left out."""
        match = _LAYER.search(name)
        if match is None or not self.pruned:
            return name
        layer = int(match[1])
        return f"{name[: match.start(1)]}{layer - sum(each < layer for each in self.pruned)}{name[match.end(1) :]}"

    def with_overrides(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata with what was set by hand. An integer is stored as the type that the key has, if that is one."""
        return {**metadata, **{key: _like(metadata.get(key), value, key) for key, value in self.overridden.items()}}

    def without_layers(self, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Metadata of the model without the layers that are left out, and notices of keys that count layers.

        ArgumentError for a layer that the model does not have, or where none would be left.
        """
        if not self.pruned:
            return dict(metadata), []
        prefix = f"{untyped(metadata.get('general.architecture'))}."
        count = untyped(metadata.get(f"{prefix}block_count"))
        if not isinstance(count, int) or max(self.pruned) >= count or len(self.pruned) >= count:
            raise ArgumentError(
                "no such layer, or no layer left",
                field="prune_layers",
                expected=f"some of 0 to {count - 1}" if isinstance(count, int) else "a model with layers",
                got=",".join(map(str, self.pruned)),
            )
        changed, notices = dict(metadata), []
        further = untyped(metadata.get(f"{prefix}nextn_predict_layers"))
        counts = (count, count - further) if isinstance(further, int) else (count,)  # some lists lack these layers
        for key, value in metadata.items():
            if not key.startswith(prefix):
                continue
            plain = untyped(value)
            if key == f"{prefix}block_count":
                changed[key] = _like(value, count - len(self.pruned), key)
            elif key == f"{prefix}leading_dense_block_count":
                changed[key] = _like(value, plain - sum(each < plain for each in self.pruned), key)
            elif key == f"{prefix}nextn_predict_layers":  # the last of all
                changed[key] = _like(value, plain - sum(each >= count - plain for each in self.pruned), key)
            elif not isinstance(plain, str | bytes | int | float) and len(plain) in counts:
                left = [item for layer, item in enumerate(plain) if layer not in self.pruned]
                changed[key] = Typed(left, value.type, value.item_type) if isinstance(value, Typed) else left
            elif isinstance(plain, int) and key.removeprefix(prefix) in _PERIODS:
                notices.append(f"{key} counts layers and stays {plain}: the layers left may be of other kinds")
        return changed, notices

    def options(self) -> list[str]:
        """What else is needed to make the same file again, as flags without their dashes."""
        return [
            *(f"output-tensor-type={self.output.name}" for _ in [0] if self.output),
            *(f"token-embedding-type={self.embedding.name}" for _ in [0] if self.embedding),
            *(word for word, given in (("pure", self.pure), ("leave-output-tensor", self.leave_output)) if given),
            *(f"include-weights={word}" for word in self.included),
            *(f"exclude-weights={word}" for word in self.excluded),
            *(f"prune-layers={','.join(map(str, self.pruned))}" for _ in [0] if self.pruned),
            *(f"override-kv={key}" for key in self.overridden),
        ]


_LAYER = re.compile(r"\bblk\.([0-9]{1,9})\.")
# Keys that say a period or a number of layers from either end, by what follows the architecture's name.
_PERIODS = frozenset(
    {
        *("attention.sliding_window_pattern", "full_attention_interval", "attention.shared_kv_layers"),
        *("interleave_moe_layer_step", "hybrid_attention_period"),
    }
)


def select(options: SelectionOptions) -> Selection:
    """Check the arguments. ArgumentError, or ArgumentTypeError, names the first that is not valid."""
    unknown = sorted(set(options) - SelectionOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    path = options.get("tensor_type_file")
    given = options.get("tensor_types", ())
    recipes.overrides(given)
    texts = (*given, *(_words(path) if path is not None else ()))
    included, excluded = (_list(options, key) for key in ("include_weights", "exclude_weights"))
    if included and excluded:
        raise ArgumentError("cannot be given with `include_weights`", field="exclude_weights", got=", ".join(excluded))
    return Selection(
        tensor_types=recipes.overrides(texts),
        texts=texts,
        files=() if path is None else (os.fspath(path),),
        output=_format(options, "output_tensor_type"),
        embedding=_format(options, "token_embedding_type"),
        pure=bool(options.get("pure")),
        leave_output=bool(options.get("leave_output_tensor")),
        included=included,
        excluded=excluded,
        pruned=_layers(options.get("prune_layers", ())),
        overridden=_values(options.get("override_kv", ())),
        allow_requantize=bool(options.get("allow_requantize")),
        strict=bool(options.get("strict")),
    )


def _words(path: str | os.PathLike[str]) -> list[str]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ArgumentError(f"cannot be read: {why}", path=path, field="tensor_type_file") from None
    if len(text) > MAX_FILE:
        expected = f"at most {MAX_FILE:,} characters: lines such as attn_v=q6_k"
        raise ArgumentError("too long for tensor types", path=path, field="tensor_type_file", expected=expected)
    return text.split()


def _format(options: Mapping[str, Any], key: str) -> BlockFormat | None:
    name = options.get(key)
    if name is None:
        return None
    try:
        return recipes.weight_type(name)
    except ArgumentError as error:
        raise ArgumentError(
            error.what, field=key, expected=error.expected, got=error.got, remedy=error.remedy
        ) from None


def _list(options: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = options.get(key, ())
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentTypeError("not a list", field=key, expected="a list of words", got=repr(values))
    for value in values:
        check_text(key, value)
    return tuple(values)


def _layers(values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentTypeError("not a list", field="prune_layers", expected="numbers of layers", got=repr(values))
    return tuple(sorted({check_integer("prune_layers", value, 0) for value in values}))


def _values(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str | bytes):
        raise ArgumentTypeError("not a list", field="override_kv", expected="KEY=TYPE:VALUE each", got=repr(given))
    return dict(map(_value, given))


def _value(text: str) -> tuple[str, Any]:
    """Key and value of a ``KEY=TYPE:VALUE``."""
    check_text("override_kv", text)
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    read = _READ.get(kind)
    try:
        if not key or not equals or not colon or read is None:
            raise ValueError(text)
        return key, read(value)
    except (ValueError, KeyError):
        raise ArgumentError(
            "not a metadata value",
            field="override_kv",
            expected="KEY=int:5, KEY=float:0.5, KEY=bool:true or KEY=str:text",
            got=repr(text),
        ) from None


_READ: Mapping[str, Callable[[str], Any]] = {
    **{"int": int, "float": float, "str": str},
    "bool": {"true": True, "false": False}.__getitem__,
}


def _like(old: Any, new: Any, key: str) -> Any:
    """``new`` with the type of ``old`` where both are integers. ArgumentError where that does not hold it."""
    if not isinstance(old, Typed) or old.type not in INTEGERS or isinstance(new, bool) or not isinstance(new, int):
        return new
    limits = np.iinfo(CODES[old.type])
    if not limits.min <= new <= limits.max:
        expected = f"{limits.min} to {limits.max}"
        raise ArgumentError("out of range", field="override_kv", expected=expected, got=f"{key}={new}")
    return Typed(new, old.type)
