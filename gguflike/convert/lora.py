"""Adapters merged into a model while it is converted: ``W + scale * B @ A``, in float32, slab by slab."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint import LazyTensor
from gguflike.checkpoint.adapter import Adapter, Factors, open_adapter
from gguflike.checkpoint.quantized.tensors import Computed, computed
from gguflike.checkpoint.safetensors import same_values
from gguflike.errors import ArgumentError, ArgumentTypeError, CheckpointError, UnsupportedError, check_number
from gguflike.families.family import Family
from gguflike.families.names import canonical_names
from gguflike.families.parts import Tensor

Floats = npt.NDArray[np.float32]
StrPath = str | os.PathLike[str]
Lora: TypeAlias = StrPath | tuple[StrPath, float]

TILE = 1 << 16  # values that are added to at a time: what fits into a core's cache, with the products


class Weighted(NamedTuple):
    """An adapter and how much of it is merged: 1 is all."""

    adapter: Adapter
    weight: float


def parse(text: str) -> Lora:
    """An adapter as it is given on the command line: a folder, or ``FOLDER:SCALE``."""
    folder, colon, number = text.rpartition(":")
    try:
        return (folder, float(number)) if colon and folder else text
    except ValueError:
        return text


def open_all(lora: Sequence[Lora]) -> list[Weighted]:
    """Open the adapters that are to be merged. ArgumentTypeError for what is no list of them; errors as of
    `open_adapter`."""
    if isinstance(lora, str | bytes | os.PathLike) or not isinstance(lora, Sequence):
        expected = "a list of folders, or of pairs of a folder and a scale"
        raise ArgumentTypeError("not a list", field="lora", expected=expected, got=repr(lora)[:120])
    opened = []
    for each in lora:
        folder, weight = each if isinstance(each, tuple) else (each, 1.0)
        check_number("lora", weight, "a finite scale", math.isfinite)
        opened.append(Weighted(open_adapter(folder), float(weight)))
    return opened


@dataclass(frozen=True)
class Added:
    """One product that is added: ``scale * b @ a``, or its transpose."""

    factors: Factors
    scale: float
    transposed: bool

    def rows(self, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop`` of the product."""
        a, b = self.factors.a, self.factors.b
        if self.transposed:
            left, right = _columns_f32(a, start, stop).T, b.read_f32().T
        else:
            left, right = b.read_f32(start, stop), a.read_f32()
        for factor, tensor in ((left, a), (right, b)):
            if not np.isfinite(factor).all():
                got = factor[~np.isfinite(factor)][0]
                raise CheckpointError("value is not finite", path=tensor.path, tensor=tensor.name, got=got)
        product = ordered_product(left, right)
        product *= np.float32(self.scale)
        return product


def ordered_product(left: Floats, right: Floats) -> Floats:
    """``left @ right``, with the same bits on every CPU.

    numpy's product differs in its last bits from one CPU to another. Here products are added one behind the other, as
    no CPU does in another way.
    """
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    out: Floats = np.zeros((len(left), right.shape[1]), np.float32)
    step = max(1, TILE // max(1, out.shape[1]))
    for first in range(0, len(out), step):
        tile = out[first : first + step]
        product = np.empty_like(tile)
        for k in range(len(right)):
            np.multiply(left[first : first + step, k, None], right[k], out=product)
            tile += product
    return out


def _columns_f32(tensor: LazyTensor, start: int, stop: int) -> Floats:
    """Columns as float32."""
    if (start, stop) == (0, tensor.shape[1]):
        return tensor.read_f32()
    rows = [tensor.read_f32(row, row + 1)[:, start:stop] for row in range(tensor.rows)]
    return np.concatenate(rows)


@dataclass(frozen=True)
class Merged(Computed):
    """A weight with what adapters add to it; ``magnitude``: of DoRA, which sets the length of each row."""

    base: LazyTensor
    added: tuple[Added, ...]
    magnitude: LazyTensor | None = None

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.rows if stop is None else stop
        rows = self.base.read_f32(start, stop).astype(np.float32)
        for each in self.added:
            rows += each.rows(start, stop)
        if self.magnitude is not None:
            lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
            wanted = self.magnitude.read_f32().reshape(-1)[start:stop]
            rows *= (wanted / lengths).astype(np.float32)[:, None]
        return rows


@dataclass(frozen=True)
class Shifted(Computed):
    """A bias with what adapters add to it."""

    base: LazyTensor
    added: tuple[tuple[LazyTensor, float], ...]

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        values = self.base.read_f32(start, stop).astype(np.float32)
        for bias, scale in self.added:
            values += np.float32(scale) * bias.read_f32(start, stop)
        return values


def labels(adapters: Sequence[Weighted]) -> list[str]:
    """What a file says of the adapters that it was made with: their names, and scales that are not 1."""
    return [each.adapter.source + ("" if each.weight == 1 else f":{each.weight:g}") for each in adapters]


def merge(
    family: Family[Any], available: Mapping[str, LazyTensor], adapters: Sequence[Weighted], tied: bool
) -> dict[str, LazyTensor]:
    """The tensors of a model, by canonical name, with the adapters merged into them. ``tied``: its output matrix is its
    embedding, which is no longer so where an adapter changes one of the two.

    CheckpointError where an adapter changes what the model does not have, or in another shape.
    """
    output, embedding = (
        (family.hf_names(Tensor(role, ()), None, available)[0] for role in ("output.weight", "token_embd.weight"))
        if tied
        else ("", "")
    )
    tensors = dict(available)
    for adapter, weight in adapters:
        for name, tensor in _canonical(family, adapter, adapter.replaced).items():
            if tied and name in (output, embedding):
                _untie(tensors, output, embedding, adapter)
            base = _base(tensors, name, adapter, tensor.name, tensor.shape)
            if same_values(base, tensor):  # saved once more beside what is added to it
                continue
            if weight != 1 or base is not available.get(name, base):
                raise ArgumentError(
                    "the adapter replaces a whole tensor, which is done once and not in part",
                    path=adapter.folder,
                    tensor=tensor.name,
                    field="lora",
                    got=f"a scale of {weight:g}" if weight != 1 else "another adapter that does",
                )
            tensors[name] = tensor
    added: dict[str, list[tuple[Added, Adapter]]] = {}
    biases: dict[str, list[tuple[LazyTensor, float]]] = {}
    for adapter, weight in adapters:
        for name, factors in _canonical(family, adapter, adapter.factors).items():
            if tied and name in (output, embedding):
                _untie(tensors, output, embedding, adapter)
            change = _added(_base(tensors, name, adapter, factors.a.name), factors, weight, adapter)
            added.setdefault(name, []).append((change, adapter))
        for name, (bias, scale) in _canonical(family, adapter, adapter.biases).items():
            _base(tensors, name, adapter, bias.name, bias.shape)
            biases.setdefault(name, []).append((bias, scale * weight))
    for name, changes in added.items():
        tensors[name] = _merged(name, tensors[name], changes)
    for name, shifts in biases.items():
        main = tensors[name]
        tensors[name] = computed(Shifted, main.name, main.shape, main, base=main, added=tuple(shifts))
    return tensors


def _untie(tensors: dict[str, LazyTensor], output: str, embedding: str, adapter: Adapter) -> None:
    """Give a model that stores one of the two also the other, so that they can differ: an adapter was trained beside
    the other as it was, unless it says otherwise."""
    if adapter.settings.get("ensure_weight_tying"):
        return
    if embedding in tensors:
        tensors.setdefault(output, tensors[embedding])
    elif output in tensors:
        tensors.setdefault(embedding, tensors[output])


def _canonical(family: Family[Any], adapter: Adapter, by_name: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter has for tensors, by the names that the family's origins give them."""
    every = [*adapter.factors, *adapter.replaced, *adapter.biases]  # of few names, what stands before all is not told
    names = canonical_names(family, every)
    return {names[name]: each for name, each in by_name.items()}


def _base(
    tensors: Mapping[str, LazyTensor], name: str, adapter: Adapter, named: str, shape: tuple[int, ...] | None = None
) -> LazyTensor:
    base = tensors.get(name)
    if base is None or (shape is not None and base.shape != shape):
        raise CheckpointError(
            "the adapter changes a tensor that the model does not have" if base is None else "the adapter does not fit",
            path=adapter.folder,
            tensor=named,
            expected=f"{name} in the model" if base is None else f"the shape {base.shape} of {name}",
            got=None if base is None else shape,
            remedy=f"it was trained for {adapter.base}" if adapter.base else "it was trained for another model",
        )
    return base


def _added(base: LazyTensor, factors: Factors, weight: float, adapter: Adapter) -> Added:
    """The product in the way that the weight stands. PEFT's formula is for (rows, columns) as of torch.nn.Linear."""
    transposed = factors.transposed(base.shape)
    if transposed is None:
        _base({base.name: base}, base.name, adapter, factors.a.name, factors.product)
    return Added(factors, factors.scale * weight, bool(transposed))


def _merged(name: str, base: LazyTensor, changes: Sequence[tuple[Added, Adapter]]) -> LazyTensor:
    magnitudes = [change.factors.magnitude for change, _ in changes if change.factors.magnitude is not None]
    adapter = changes[0][1]
    if magnitudes and len(changes) > 1:
        remedy = "merge one of them into the checkpoint first, by PEFT's merge_and_unload"
        raise UnsupportedError(
            "DoRA beside another adapter of the same tensor", path=adapter.folder, tensor=name, remedy=remedy
        )
    if magnitudes and changes[0][0].transposed:
        remedy = "merge it into the checkpoint first, by PEFT's merge_and_unload"
        raise UnsupportedError(
            "DoRA of a matrix that is stored transposed", path=adapter.folder, tensor=name, remedy=remedy
        )
    if magnitudes and magnitudes[0].size != base.rows:
        _base({name: base}, name, adapter, magnitudes[0].name, (magnitudes[0].size, *base.shape[1:]))
    return computed(
        Merged,
        base.name,
        base.shape,
        base,
        base=base,
        added=tuple(change for change, _ in changes),
        magnitude=magnitudes[0] if magnitudes else None,
    )
