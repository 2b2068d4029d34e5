"""A checkpoint's tensors paired with their places in the file: which is which, what is left out, what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.checkpoint import Checkpoint, LazyTensor
from gguflike.checkpoint.quantized.float4 import stack
from gguflike.checkpoint.safetensors import FLOATS, same_values
from gguflike.convert.float4 import Float4Source, float4_source
from gguflike.convert.sources import CheckpointSource, MadeSource, Source
from gguflike.errors import CheckpointError, UnsupportedError, counted
from gguflike.families import config as configs
from gguflike.families.family import Binding, Family, expect_tensor
from gguflike.families.names import canonical_names
from gguflike.families.origins import Piece
from gguflike.families.parts import Graph, Head, Tensor, role_of

if TYPE_CHECKING:
    from gguflike.families.origins import Floats

_TOLD = 8  # parts of a checkpoint that are left out and that are named


def is_tied(graph: Graph) -> bool:
    """Whether the embedding is also the output matrix."""
    return isinstance(graph.head, Head) and graph.head.tied


def by_canonical_name(family: Family[Any], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by the names that the family's origins give them.

    CheckpointError where two with different values come to one name.
    """
    found: dict[str, LazyTensor] = {}
    for name, canonical in canonical_names(family, tensors).items():
        other = found.setdefault(canonical, tensors[name])
        if not same_values(other, tensors[name]):
            raise CheckpointError(
                "two tensors of the checkpoint stand for one of the model, and differ",
                path=tensors[name].path,
                tensor=name,
                got=f"{other.name} and {name}",
                remedy="remove the one that is not the model's",
            )
    return found


def tied_or_not(
    family: Family[Any], config: Any, available: Mapping[str, LazyTensor]
) -> tuple[Any, Mapping[str, LazyTensor], list[str]]:
    """The configuration and the tensors as they belong together, where config.json ties the output matrix to the
    embedding, and a notice.

    What is stored tells what was trained. A model merged or tuned after untying keeps the flag of its origin: where the
    two differ, the output matrix is kept. Where only one is stored, under either name, it is both.
    """
    if not is_tied(family.graph(config)):
        return config, available, []
    names = [family.hf_names(Tensor(role, ()), None, available)[0] for role in ("output.weight", "token_embd.weight")]
    head, embedding = (available.get(name) for name in names)
    if head is not None and embedding is None:
        return config, {names[1] if name == names[0] else name: each for name, each in available.items()}, []
    if head is None or embedding is None or same_values(head, embedding):
        return config, available, []
    notice = f"{names[0]} is kept: config.json ties it to {names[1]}, but the two differ"
    return configs.changed(config, untied=True), available, [notice]


def check_layers(config: Any, opened: Checkpoint) -> None:
    """CheckpointError where config.json promises more layers than there are tensors: before a graph of them is made."""
    available = opened.tensors
    if config.n_layer > len(available):
        raise CheckpointError(
            "config.json promises more layers than there are tensors",
            path=opened.folder,
            expected=f"num_hidden_layers {config.n_layer}",
            got=counted(len(available), "tensor"),
        )


def small_values(family: Family[Any], available: Mapping[str, LazyTensor]) -> dict[str, list[float]]:
    """The hyper-parameters that the checkpoint holds as tensors, by their keys: the values of each layer that has them.

    CheckpointError for a tensor of so many values that it cannot be one.
    """
    return {
        key: [
            value
            for name in family.small_names(key, range(len(available)))
            if name in available
            for value in _few(available[name])
        ]
        for key in family.small
    }


def _few(tensor: LazyTensor) -> list[float]:
    if prod(tensor.shape) > _FEW:
        raise CheckpointError(
            "tensor has the wrong shape", tensor=tensor.name, expected=f"at most {_FEW} values", got=tensor.shape
        )
    values: list[float] = tensor.read_f32().reshape(-1).tolist()
    return values


_OF_TOKENS = ("token_embd", "output")  # with a row for each
_FEW = 2**16  # values of a tensor that a configuration holds


def match(
    family: Family[Any], config: Any, available: Mapping[str, LazyTensor], folder: Path, further: int = 0
) -> tuple[list[Source], list[str]]:
    """Pair every tensor of the checkpoint (by canonical name) with its place; also say which are left out: those of
    ``further`` layers that predict more than the next token, for one.

    CheckpointError on a tensor that is missing or misshapen, UnsupportedError on one that the family does not have.
    """
    bindings = family.bind(config, {name: tensor.shape for name, tensor in available.items()})
    zero = _zero_biases(bindings, available)
    bindings = tuple(zero.get(binding.gguf, binding) for binding in bindings)
    _expect(family, bindings, available, folder)
    sources = [_source(binding, available) for binding in bindings]
    dropped = set(available) - {piece.hf for binding in bindings for piece in binding.pieces}
    unused = sorted(name for name in dropped if not family.ignores(name))
    parts_of = {name: family.part_left_out(name, config.n_layer, further) for name in unused}
    parts = Counter(part for part in parts_of.values() if part is not None)
    unused = [name for name, part in parts_of.items() if part is None]
    beside = [name for name in unused if family.stands_beside(name)]
    unused = [name for name in unused if name not in beside]
    ruled_out = set(family.ruled_out(config, available.keys()))
    unknown = [name for name in unused if name not in ruled_out]
    layers = [layer for name in unknown if (layer := family.layer_of(name)) is not None]
    if layers and min(layers) >= config.n_layer:
        raise CheckpointError(
            "the checkpoint has more layers than config.json says",
            path=folder,
            expected=f"num_hidden_layers {config.n_layer}",
            got=f"{max(layers) + 1} layers",
            remedy="set num_hidden_layers to as many, or save the model again without the others",
        )
    if unknown:
        raise UnsupportedError(
            f"{counted(len(unknown), 'tensor')} that no model of architecture {family.name} has",
            path=folder,
            tensor=unknown[0],
            remedy="the checkpoint is of another architecture, or incomplete support; nothing was converted",
        )
    roles = Counter(role_of(name)[0] for name in zero)
    notices = [f"{role} is zero, as no tensor gives it: {counted(count, 'tensor')}" for role, count in roles.items()]
    notices += [f"{name} is left out: config.json says the model does not use it" for name in unused]
    notices += [f"{part} is left out: {counted(count, 'tensor')}" for part, count in parts.items()]
    roots = Counter(name.partition(".")[0] for name in beside)
    for root, count in roots.most_common(_TOLD):
        named = root if re.fullmatch(r"\w{1,80}", root) else f"{root[:80]!r}"
        notices.append(
            f"{named} is left out, which no model of architecture {family.name} has: {counted(count, 'tensor')}"
        )
    if len(roots) > _TOLD:
        count = sum(roots.values()) - sum(count for _, count in roots.most_common(_TOLD))
        notices.append(f"{len(roots) - _TOLD} more such parts are left out: {counted(count, 'tensor')}")
    return sources, notices


def _zero_biases(bindings: Iterable[Binding], available: Collection[str]) -> dict[str, Binding]:
    """Biases of matrices and norms that config.json promises and no layer has: Transformers makes them anew, as zeros.

    By their names in the file.
    """
    weighted = {binding.gguf.removesuffix("weight") for binding in bindings if binding.gguf.endswith(".weight")}
    missing: dict[str, list[Binding]] = {}
    here: set[str] = set()
    for binding in bindings:
        if binding.gguf.endswith(".bias") and binding.gguf.removesuffix("bias") in weighted and binding.pieces:
            role = role_of(binding.gguf)[0]
            missing.setdefault(role, []).append(binding)
            if any(piece.hf in available for piece in binding.pieces):
                here.add(role)
    return {
        binding.gguf: Binding(binding.gguf, binding.shape, (), partial(_zeros, binding.shape))
        for role in missing.keys() - here
        for binding in missing[role]
    }


def _zeros(shape: tuple[int, ...]) -> Floats:
    return np.zeros(shape, np.float32)


def _expect(
    family: Family[Any], bindings: Iterable[Binding], available: Mapping[str, LazyTensor], folder: Path
) -> None:
    """CheckpointError where a tensor of the model is missing, with the names that are there instead, or misshapen."""
    for binding in bindings:
        for piece in binding.pieces:
            tensor = available.get(piece.hf)
            if tensor is not None:
                remedy = "the checkpoint is incomplete, or config.json belongs to another"
                if role_of(binding.gguf)[0] in _OF_TOKENS and tensor.shape[1:] == piece.hf_shape[1:]:
                    remedy = f"if the vocabulary was resized, set vocab_size in config.json to {tensor.shape[0]}"
                expect_tensor(CheckpointError, tensor.path, piece.hf, piece.hf_shape, tensor.shape, remedy)
                continue
            _expect_layer(family, piece.hf, available, folder)
            others = [each.name for name, each in available.items() if not family.knows(name)]
            of_head = role_of(binding.gguf)[0] == "output"
            tie = "or it is the embedding: then config.json should say tie_word_embeddings true"
            raise CheckpointError(
                "tensor is missing",
                path=folder,
                tensor=piece.hf,
                expected=f"shape {piece.hf_shape}",
                got=f"names such as {', '.join(others[:3])}"[:300] if others else None,
                remedy=f"the checkpoint is incomplete, {tie if of_head else 'or config.json belongs to another'}",
            )


def _expect_layer(family: Family[Any], name: str, available: Iterable[str], folder: Path) -> None:
    """CheckpointError where no tensor is there of the layer that ``name`` is of, nor of any behind it."""
    wanted = family.layer_of(name)
    layers = {layer for each in available if (layer := family.layer_of(each)) is not None}
    if wanted is not None and layers and wanted > max(layers):
        raise CheckpointError(
            "the checkpoint has fewer layers than config.json says",
            path=folder,
            tensor=name,
            expected=f"layer {wanted}",
            got=counted(max(layers) + 1, "layer"),
            remedy="the checkpoint is incomplete, or num_hidden_layers of config.json is that of another",
        )


def _source(binding: Binding, available: Mapping[str, LazyTensor]) -> Source:
    if binding.make is not None:
        return MadeSource(binding.gguf, binding.shape, binding.make)
    if binding.pieces[0].packed:
        blocks, scales = (_tensor(piece, available) for piece in binding.pieces)
        return Float4Source(binding.gguf, binding.shape, ((stack(blocks, scales), binding.pieces[0]),))
    pieces = tuple((_tensor(piece, available), piece) for piece in binding.pieces)
    as_blocks = float4_source(binding.gguf, binding.shape, pieces)
    return as_blocks or CheckpointSource(binding.gguf, binding.shape, pieces)


def _tensor(piece: Piece, available: Mapping[str, LazyTensor]) -> LazyTensor:
    tensor = available[piece.hf]
    wanted = {"U8"} if piece.packed else FLOATS
    if tensor.dtype not in wanted:
        raise UnsupportedError(
            "weights are not bytes of 4-bit floats" if piece.packed else "weights are not floating-point",
            path=tensor.path,
            tensor=piece.hf,
            expected="one of " + ", ".join(sorted(wanted)),
            got=tensor.dtype,
            remedy="a checkpoint that is already quantized has to be dequantized first",
        )
    return tensor
