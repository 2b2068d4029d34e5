"""A model whose matrices multiply rounded activations: what schemes for activations cost, before there are ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gguflike.reference.watched import Array

Round = Callable[[str, Array], Array]


class RoundedInputs(Mapping[str, Any]):
    """``weights`` by GGUF name, each matrix of two axes of which multiplies ``rounds(name, x)`` instead of x. Tables
    and vectors are as they are."""

    def __init__(self, weights: Mapping[str, Array], rounds: Round) -> None:
        self._weights, self._rounds = weights, rounds

    def __getitem__(self, name: str) -> Any:
        value = self._weights[name]
        is_table = name.split(".")[0] in ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
        return value if value.ndim != 2 or is_table else _Matrix(value, name, self._rounds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class _Matrix:
    """A matrix that rounds what is multiplied by its transpose."""

    __array_ufunc__ = None  # numpy leaves products to us

    def __init__(self, values: Array, name: str, rounds: Round) -> None:
        self._values, self._name, self._rounds = values, name, rounds
        self.shape = values.shape

    @property
    def T(self) -> _Matrix:
        return self

    def __rmatmul__(self, x: Array) -> Array:
        product: Array = self._rounds(self._name, x) @ self._values.T
        return product
