"""Which tensors of a file the graph of its model reads. A file that lacks one of them, or has another, is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gguflike.container import GGUFFile, TensorInfo
from gguflike.errors import GGUFError, UnsupportedError
from gguflike.families.family import expect_tensor
from gguflike.families.inert import INERT_ROLES, scale_beside
from gguflike.families.parts import Graph, role_of
from gguflike.kernels.dispatch import linear_plan

EMBEDDING = "token_embd.weight"


class Checked(NamedTuple):
    """Of the tensors that a graph reads, by name: their forms (``Tensor.form``), their shapes, and what share of each a
    token reads; and of matrices the names of the numbers that their products are multiplied by, where there are any.
    """

    forms: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    shares: dict[str, float]
    factors: dict[str, str]


def checked(file: GGUFFile, graph: Graph, left_out: int | None) -> Checked:
    """What the graph reads, after checking that each tensor is there with its shape and a usable type, and that no
    other is but for those of ``left_out`` layers behind it (None: any other)."""
    forms: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    shares: dict[str, float] = {}
    unread = dict(file.infos)
    places = list(graph.tensors())
    weighted = {name.removesuffix("weight") for name, _, _ in places if name.endswith(".weight")}
    for name, _, tensor in places:
        info = file.infos.get(name)
        # Biases are there or not in whatever files; one that is there counts, whatever the configuration says.
        is_bias = name.endswith(".bias") and name.removesuffix("bias") in weighted
        if (info is None) if is_bias else not tensor.used:
            continue
        remedy = "the file is incomplete, or was made for another architecture"
        expect_tensor(GGUFError, file.path, name, tensor.shape, info and info.shape, remedy)
        assert info is not None
        many = len(tensor.shape) > 1 and not name.endswith(".bias")
        form = tensor.form or ("matrix" if many else "values")
        if form == "values" and not info.format.is_float:
            raise UnsupportedError("vectors must be floating point", path=file.path, tensor=name, got=info.format.name)
        if form == "matrix" or name == EMBEDDING:
            linear_plan(info.format)
        unread.pop(name, None)
        forms[name], shapes[name], shares[name] = form, tensor.shape, tensor.share
    factors = _factors(file, {name: shapes[name] for name, form in forms.items() if form == "matrix"}, unread)
    for name in factors.values():
        forms[name], shapes[name], shares[name] = "values", file.infos[name].shape, 1.0
        unread.pop(name)
    if left_out is not None:
        _check_unread(file, unread, range(len(graph.blocks), len(graph.blocks) + left_out))
    return Checked(forms, shapes, shares, factors)


def _factors(
    file: GGUFFile, matrices: Mapping[str, tuple[int, ...]], unread: Mapping[str, TensorInfo]
) -> dict[str, str]:
    """By name of a matrix, that of the numbers beside it by which products are multiplied: NVFP4 has them. GGUFError
    unless there is one number for each matrix of the tensor."""
    factors = {name: factor for name in matrices if (factor := scale_beside(name)) in unread and factor is not None}
    for name, factor in factors.items():
        expected, got = matrices[name][:-2] or (1,), file.infos[factor].shape
        if got != expected:
            raise GGUFError(
                "there is not one scale for each matrix", path=file.path, tensor=factor, expected=expected, got=got
            )
    return factors


def _check_unread(file: GGUFFile, unread: Mapping[str, TensorInfo], left_out: range) -> None:
    """UnsupportedError where a file has tensors that its model does not read, but for those of layers left out."""
    names = [name for name in unread if role_of(name)[0] not in INERT_ROLES and role_of(name)[1] not in left_out]
    names = [name for name in names if not name.endswith(".input_scale")]  # for those who round activations
    if names:
        raise UnsupportedError(
            "the file has a tensor that no part of the model reads, so it means another computation",
            path=file.path,
            tensor=names[0],
            expected="only tensors that this version computes with",
            got=f"{len(names)} others" if len(names) > 1 else "one other",
        )
