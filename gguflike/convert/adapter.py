"""An adapter alone, as a GGUF file that llama.cpp applies to a model: ``<tensor>.lora_a`` and ``.lora_b``.

llama.cpp adds ``adapter.lora.alpha / rank * b @ a`` to a product with the tensor. The rows and columns of a tensor of
GGUF may stand in another order than the checkpoint's, and so do those of the factors.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import checkpoint
from gguflike.blocks import format_by_name
from gguflike.checkpoint import card, files, strictjson
from gguflike.checkpoint.adapter import Adapter, Factors, has_model, open_adapter
from gguflike.checkpoint.recognize import adapter_of
from gguflike.container import Typed, ValueType
from gguflike.convert import metadata as general
from gguflike.convert import planning
from gguflike.convert import recipe as recipes
from gguflike.convert.facts import Facts
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.selection import Selection
from gguflike.convert.sources import check
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from gguflike.families import registry
from gguflike.families.family import Binding, Family
from gguflike.families.names import canonical_names
from gguflike.families.origins import Piece

Floats = npt.NDArray[np.float32]
StrPath = str | os.PathLike[str]

_EMBEDDING = "token_embd.weight."
_MERGE = "merge it first: convert its base with `lora`"


@dataclass(frozen=True)
class FactorSource:
    """One of the two factors, ``side`` a or b, of a tensor whose ``pieces`` an adapter changes: in rows one behind the
    other, or a stack of matrices, of which those that it does not change have zeros."""

    name: str
    shape: tuple[int, ...]
    side: str
    pieces: tuple[tuple[Piece, Factors | None], ...]
    alpha: float
    stored: str = "F32"
    group: int = 1

    @property
    def origin(self) -> str:
        return next(each.a.name for _, each in self.pieces if each is not None)

    def read(self, start: int, stop: int, limit: float) -> Floats:
        rows = self._whole()[start:stop]
        check(rows, self.origin, start, limit)
        return np.ascontiguousarray(rows, np.float32)

    @property
    def looked_up(self) -> bool:
        """Whether rows are looked up, not multiplied with: llama.cpp then adds ``a[row] @ b.T``."""
        return self.name.startswith(_EMBEDDING)

    def _whole(self) -> Floats:
        stacked = self.pieces[0][0].stacked
        made = [self._of(piece, factors) for piece, factors in self.pieces]
        if stacked:
            return np.stack(made)
        return np.concatenate(made) if self.side == "b" and not self.looked_up else made[0]

    def _of(self, piece: Piece, factors: Factors | None) -> Floats:
        if factors is None:
            return np.zeros(self.shape[1:], np.float32)
        a, b = _stored(piece, factors)
        b = b[piece.start : piece.start + piece.hf_rows]
        made = piece.via.factored(a, b)
        assert made is not None  # asked for in _sources
        a, b = (made[1], made[0].T) if self.looked_up else made
        return a if self.side == "a" else b * np.float32(factors.scale / (self.alpha / factors.rank))


def _stored(piece: Piece, factors: Factors) -> tuple[Floats, Floats]:
    """The factors of a matrix as the checkpoint has it."""
    a, b = factors.a.read_f32(), factors.b.read_f32()
    return (b.T, a.T) if factors.transposed(piece.hf_shape) else (a, b)


def plan_adapter(
    src: StrPath,
    out: StrPath | None,
    type: str,
    selection: Selection,
    base: StrPath | None = None,
    name: str | None = None,
    ignore_config: Iterable[str] = (),
) -> ConversionPlan:
    """The plan of a conversion of an adapter alone. ``base`` is where the configuration of its model is: by default the
    folder itself, else what the adapter says.

    Matrices are F32, or F16 or BF16 where the type says so. UnsupportedError where a file cannot say what the adapter
    does.
    """
    with _named(Path(src)):
        adapter = open_adapter(src)
    asked = recipes.by_name(type)
    recipe = asked if not format_by_name(asked.type).is_quantized else recipes.by_name("F32")
    config, tensors, read = _base(adapter, base, ignore_config)
    family = registry.for_config(config)
    shapes = {new: tensors[old].shape for old, new in canonical_names(family, tensors).items()} if tensors else None
    values, notices = family.from_config(config, ignore_config, shapes or ())
    with _named(adapter.folder):
        _check(adapter)
        alpha = _alpha(adapter)
        sources = _sources(adapter, family, family.bind(values, shapes), alpha)
    described, unread = card.read(adapter.folder, general.CARD_KEYS)
    if asked is not recipe:
        notices.append(f"the matrices of an adapter are stored as {recipe.name}, whatever the type of the model")
    metadata = {
        **general.general(
            family.name,
            adapter.source,
            {source.name: source.shape for source in sources},
            recipe,
            {},
            described,
            name,
            None,
        ),
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": Typed(alpha, ValueType.FLOAT32),
        **_invocation(adapter),
        **general.provenance(adapter.source, recipe, selection, None),
    }
    return planning.make(
        source=adapter.source,
        target=out,
        recipe=recipe,
        facts=Facts(n_layer=0),
        sources=sources,
        metadata=selection.with_overrides(metadata),
        fixed=lambda _: recipe.type,
        inputs=[*adapter.inputs(), *read],
        selection=selection,
        notices=[*unread, *notices],
    )


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Say of errors what it is that is wrong: an adapter, of which model, which may have been taken for one."""
    try:
        yield
    except (CheckpointError, UnsupportedError) as error:
        error.what = f"this is {adapter_of(folder) or 'an adapter'}, not a model: {error.what}"
        error.remedy = error.remedy or _MERGE
        raise


def _base(
    adapter: Adapter, base: StrPath | None, ignored: Iterable[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any], list[Path]]:
    """The configuration of the model, its tensors as far as they are at hand, and the files that it has."""
    own = adapter.folder / "config.json"
    if base is None and files.present(own) and "peft_type" not in (config := strictjson.load_config(own)):
        return config, {}, [own]
    named = adapter.base if base is None else base
    try:
        if named is None:
            raise CheckpointError("adapter_config.json names no base", path=adapter.folder)
        folder = Path(named)
        if folder.is_dir() and not has_model(folder):
            return strictjson.load_config(folder / "config.json"), {}, [folder / "config.json"]
        opened = checkpoint.open(named, ignored=ignored)
    except GGUFLikeError as error:
        of = f" of {adapter.base}" if adapter.base else ""
        raise CheckpointError(
            f"this is a LoRA adapter{of}, not a model, and the configuration of its model is not at hand",
            path=adapter.folder,
            got=str(error),
            remedy=f"name a folder that has it by `base`, or {_MERGE}",
        ) from error
    return opened.config, opened.tensors, opened.inputs()


def _check(adapter: Adapter) -> None:
    """UnsupportedError for what a file of adapters cannot hold."""
    others = [
        *((name, "replaces a whole tensor") for name in adapter.replaced if not _is_stale(name, adapter)),
        *((name, "changes a bias") for name in adapter.biases),
        *((name, "is of DoRA") for name, each in adapter.factors.items() if each.magnitude is not None),
    ]
    for name, what in others:
        raise UnsupportedError(
            f"the adapter {what}, which an adapter in GGUF cannot", path=adapter.folder, tensor=name, remedy=_MERGE
        )


def _is_stale(name: str, adapter: Adapter) -> bool:
    """Whether a tensor is that of the model, saved once more beside what is added to it."""
    return name in adapter.factors


def _alpha(adapter: Adapter) -> float:
    """The one alpha of the file: that of the most tensors. The factors of others are scaled."""
    alphas = [each.alpha for each in adapter.factors.values()]
    return max(alphas, key=alphas.count)


def _invocation(adapter: Adapter) -> dict[str, Any]:
    """The tokens that switch the adapter on (aLoRA)."""
    tokens = adapter.settings.get("alora_invocation_tokens")
    if not tokens:
        return {}
    if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token < 2**32 for token in tokens):
        raise CheckpointError("not a list of tokens", path=adapter.folder, field="alora_invocation_tokens", got=tokens)
    return {"adapter.alora.invocation_tokens": Typed(tokens, ValueType.ARRAY, ValueType.UINT32)}


def _sources(adapter: Adapter, family: Family[Any], bindings: Collection[Binding], alpha: float) -> list[FactorSource]:
    """The factors of every tensor that the adapter changes."""
    names = canonical_names(family, adapter.factors)
    factors = {names[name]: each for name, each in adapter.factors.items()}
    sources = []
    left = dict(factors)
    for binding in bindings:
        pieces = tuple((piece, factors.get(piece.hf)) for piece in binding.pieces)
        found = [each for _, each in pieces if each is not None]
        if found:
            _check_pieces(adapter, binding, pieces)
            sources += [_source(binding, pieces, side, found[0].rank, alpha) for side in ("a", "b")]
        for piece, _ in pieces:
            left.pop(piece.hf, None)
    for each in left.values():
        raise CheckpointError(
            "the adapter changes a tensor that the model does not have",
            path=adapter.folder,
            tensor=each.a.name,
            remedy=f"it was trained for {adapter.base}" if adapter.base else _MERGE,
        )
    return sources


def _check_pieces(adapter: Adapter, binding: Binding, pieces: Collection[tuple[Piece, Factors | None]]) -> None:
    """UnsupportedError where the change of a tensor of GGUF is no product of two matrices."""
    found = [(piece, each) for piece, each in pieces if each is not None]
    for piece, each in found:
        if each.transposed(piece.hf_shape) is None:
            raise CheckpointError(
                "the adapter does not fit",
                path=adapter.folder,
                tensor=each.a.name,
                expected=f"a change of shape {piece.hf_shape}",
                got=each.product,
                remedy=f"it was trained for {adapter.base}" if adapter.base else None,
            )
    stacked = all(piece.stacked for piece, _ in pieces)
    ranks = {each.rank for _, each in found}
    several = len({piece.hf for piece, _ in pieces}) > 1
    plain = all(piece.via.factored(*_probe(piece)) is not None for piece, _ in pieces)
    if not plain or (several and not (stacked and len(ranks) == 1)):
        raise UnsupportedError(
            f"what the adapter changes stands in one tensor with others in GGUF ({binding.gguf})",
            path=adapter.folder,
            tensor=found[0][1].a.name,
            remedy=_MERGE,
        )


def _probe(piece: Piece) -> tuple[Floats, Floats]:
    """Factors of rank 1 of a matrix like the piece's."""
    return np.zeros((1, piece.hf_shape[1]), np.float32), np.zeros((piece.hf_rows, 1), np.float32)


def _source(
    binding: Binding, pieces: tuple[tuple[Piece, Factors | None], ...], side: str, rank: int, alpha: float
) -> FactorSource:
    *stack, rows, columns = binding.shape
    name = f"{binding.gguf}.lora_{side}"
    if name.startswith(_EMBEDDING):
        return FactorSource(name, (rows if side == "a" else columns, rank), side, pieces, alpha)
    return FactorSource(name, (*stack, rank, columns) if side == "a" else (*stack, rows, rank), side, pieces, alpha)
