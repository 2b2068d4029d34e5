"""The tensors of a checkpoint while a scheme takes those that it knows, and its settings while it reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError

ACTIVATIONS = "scales of activations"  # which other engines round
REMEDY = "convert the model that it was made from, in bfloat16 or float32"


class Pool:
    """The tensors by name, of which a scheme takes parts and gives what they stand for."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self.left = dict(tensors)
        self.made: dict[str, LazyTensor] = {}
        self.dropped: dict[str, int] = {}  # what is left out -> number of tensors
        self.count = 0  # weights that were made

    def modules(self, suffix: str) -> list[str]:
        """What stands before ``suffix`` in the names that end with it."""
        return [name.removesuffix(suffix) for name in self.left if name.endswith(suffix) and name != suffix]

    def take(self, name: str, of: str, dtypes: Collection[str] | None = None) -> LazyTensor:
        """The tensor ``name``, which ``of`` cannot do without.

        CheckpointError where it is missing, UnsupportedError where it has another dtype.
        """
        found = self.maybe(name, dtypes)
        if found is None:
            beside = self.left.get(of) or self.made.get(of)
            raise CheckpointError(
                "a quantized weight lacks a part",
                path=beside.path if beside else None,
                tensor=of,
                expected=name,
                got="no such tensor",
                remedy="the checkpoint is incomplete; download it again",
            )
        return found

    def maybe(self, name: str, dtypes: Collection[str] | None = None) -> LazyTensor | None:
        """As ``take``; None where it is missing."""
        found = self.left.pop(name, None)
        if found is not None and dtypes is not None and found.dtype not in dtypes:
            raise UnsupportedError(
                "part of a quantized weight has another dtype",
                path=found.path,
                tensor=name,
                expected=" or ".join(sorted(dtypes)),
                got=found.dtype,
            )
        return found

    def give(self, tensor: LazyTensor) -> None:
        """Add a tensor that was made. CheckpointError where there is one of its name."""
        if tensor.name in self.left or tensor.name in self.made:
            raise CheckpointError(
                "weight is there twice, quantized and in floats",
                path=tensor.path,
                tensor=tensor.name,
                remedy="leave one of the two out of the checkpoint",
            )
        self.made[tensor.name] = tensor
        self.count += 1

    def drop(self, suffixes: Iterable[str], what: str) -> None:
        """Leave out tensors whose names end so."""
        ends = tuple(suffixes)
        self._drop([name for name in self.left if name.endswith(ends)], what)

    def drop_like(self, pattern: re.Pattern[str], what: str) -> None:
        """Leave out tensors whose whole names match a pattern."""
        self._drop([name for name in self.left if pattern.fullmatch(name)], what)

    def _drop(self, names: Sequence[str], what: str) -> None:
        for name in names:
            del self.left[name]
        if names:
            self.dropped[what] = self.dropped.get(what, 0) + len(names)


def expect_shape(tensor: LazyTensor, shape: Sequence[int]) -> None:
    """CheckpointError where a part of a quantized weight has another shape."""
    if tensor.shape != tuple(shape):
        raise CheckpointError(
            "part of a quantized weight has the wrong shape",
            path=tensor.path,
            tensor=tensor.name,
            expected=tuple(shape),
            got=tensor.shape,
        )


def exactly(quotient: int, divisor: int, tensor: LazyTensor, what: str) -> int:
    """``quotient / divisor``. CheckpointError where that is no whole number of at least 1."""
    if divisor < 1 or quotient < divisor or quotient % divisor:
        raise CheckpointError(
            f"{what} do not divide a weight",
            path=tensor.path,
            tensor=tensor.name,
            expected=f"a multiple of {divisor}",
            got=quotient,
        )
    return quotient // divisor


class Settings:
    """Settings of a scheme, each of which must be known: `check` refuses what nobody has asked for."""

    def __init__(self, values: Mapping[str, Any], field: str, strict: bool = True) -> None:
        self.values, self.field, self.strict = values, field, strict
        self._known: set[str] = {"quant_method"}

    def get(self, *names: str, default: Any = None) -> Any:
        """The value of the first of several spellings that is there and not None."""
        self._known.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def choice(self, *names: str, among: Collection[Any], default: Any = None) -> Any:
        """As ``get``. UnsupportedError where it is none of ``among``; strings are compared in lower case."""
        value = self.get(*names, default=default)
        plain = value.lower() if isinstance(value, str) else value
        if not any(type(plain) is type(each) and plain == each for each in among):
            raise UnsupportedError(
                "setting of the quantization",
                field=f"{self.field}: {names[0]}",
                expected=" or ".join(map(repr, among)),
                got=repr(value)[:120],
            )
        return plain

    def integer(self, *names: str, among: Collection[int] | None = None, default: int | None = None) -> int:
        """As ``get``, an integer. CheckpointError where it is none, UnsupportedError where it is none of ``among``."""
        value = self.get(*names, default=default)
        if type(value) is not int:
            raise CheckpointError(
                "setting of the quantization is not an integer",
                field=f"{self.field}: {names[0]}",
                got=repr(value)[:120],
            )
        if among is not None and value not in among:
            raise UnsupportedError(
                "setting of the quantization",
                field=f"{self.field}: {names[0]}",
                expected="one of " + ", ".join(map(str, among)),
                got=value,
            )
        return value

    def inert(self, names: str) -> None:
        """Settings (separated by spaces) that change no weight: how they were found, what computes with them."""
        self._known.update(names.split())

    def check(self) -> None:
        """UnsupportedError where a setting is left that is not known and not off."""
        off: tuple[Any, ...] = (None, False, "", [], {})
        rest = {name: value for name, value in self.values.items() if name not in self._known and value not in off}
        unknown = [name for name in rest if not name.startswith("_")]
        if unknown and self.strict:
            raise UnsupportedError(
                "settings of the quantization that are not known",
                field=self.field,
                got=", ".join(f"{name}: {self.values[name]!r}"[:80] for name in unknown),
                remedy="if they do not change what weights stand for, add `ignore_config=['quantization_config']`",
            )
