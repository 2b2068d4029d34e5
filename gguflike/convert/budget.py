"""Types by what they cost, in a file of at most so many bytes: what is asked for, and what there is to choose from.

What each type costs is measured when the plan is carried out (`convert.allocation`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate.allocate import Candidate, allocate
from gguflike.container.layout import align_up
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.convert.recipe import RECIPES
from gguflike.convert.selection import Selection
from gguflike.errors import ArgumentError, as_integer, check_integer, check_number, check_text
from gguflike.families.parts import Graph
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.table import KERNELS

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
CONTEXT = 4096  # tokens that memory is kept for, where nothing else is said
RECENT = frozenset({"MXFP4", "NVFP4", "Q1_0", "Q2_0"})  # types that many programs do not read yet: only if asked for
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_BELOW, _ABOVE = 1.2, 2.4  # bits around what all would have at the same loss: types that are measured


Beside = Callable[[Graph, int], int]
"""Bytes of memory that a model takes beside its weights where it runs with a context of so many tokens."""


@dataclass(frozen=True)
class Limit:
    """How large a file may be: ``bpw`` bits for each of its weights, or ``nbytes`` with its header, and, where there is
    a ``beside``, with what that says that it takes to run with a ``context``; ``label`` as it was given, and ``field``
    as what."""

    field: str
    label: str
    nbytes: int | None = None
    bpw: float | None = None
    context: int = 0
    beside: Beside | None = None

    def of_tensors(self, plan: ConversionPlan) -> int:
        """Bytes that the tensors of a plan may have together, with what stands between them."""
        if self.bpw is not None:
            return int(self.bpw * plan.parameters / 8)
        assert self.nbytes is not None
        return self.nbytes - self.others(plan)

    def others(self, plan: ConversionPlan) -> int:
        """Bytes that go from the limit for other things than tensors."""
        headers = sum(file.header_bytes for file in plan.files)
        if self.beside is None:
            return headers
        if plan.calibration is None:
            from gguflike.convert.floats import FloatModel

            graph = FloatModel.of(plan).graph
        else:
            graph = plan.calibration.graph
        return headers + self.beside(graph, self.context)

    def exceeded(self, plan: ConversionPlan) -> int:
        """Bytes by which a plan is too large, or less than 0; of bits for each weight it is what was reckoned."""
        if self.bpw is not None:
            return 0
        if self.beside is None:
            tensors = sum(file.file_bytes - file.header_bytes for file in plan.files)
        else:
            tensors = sum(self.taken(plan, tensor.name, tensor.shape, tensor.format) for tensor in plan.tensors)
        return tensors - self.of_tensors(plan)

    def taken(self, plan: ConversionPlan, name: str, shape: tuple[int, ...], fmt: BlockFormat) -> int:
        """Bytes that a tensor takes of the limit in a type: those of the file, with what fills them up to where the
        next one may stand; or where the limit is of memory, those that the runner has of it."""
        if self.beside is None:
            return align_up(fmt.tensor_bytes(shape), plan.file.alignment)
        if len(shape) < 2:
            return 0  # ``beside`` has what is made of it
        how = linear_plan(fmt) if fmt.is_quantized else None
        is_table = name == _EMBEDDING and any(tensor.name == _OUTPUT for tensor in plan.tensors)
        if how is None or how.repack is None or is_table:  # read where it lies in the file
            return fmt.tensor_bytes(shape)
        packed = how.packed_bytes(*shape[-2:]) * prod(shape[:-2])
        return packed + (fmt.tensor_bytes(shape) if name == _EMBEDDING else 0)

    @property
    def recipe(self) -> Recipe:
        """The recipe for what is not measured: an embedding that is no output matrix."""
        return replace(RECIPES["Q4_K_S"], name=self.label, rules=(), alias="", mix="Q4_K_S", wants_imatrix=False)


@dataclass(frozen=True)
class Budget:
    """Types that are still to be chosen: those of the tensors ``free``, from ``ladders``, so that the file keeps to the
    ``limit``. ``make(formats)`` is the plan with these types by the names of tensors. ``is_ample``: the largest of the
    types fit. ``speed``: operations in a second, where no calibration knows it."""

    limit: Limit
    ladders: Mapping[str, Sequence[BlockFormat]] = field(repr=False)
    make: Callable[[Mapping[str, BlockFormat]], ConversionPlan] = field(repr=False, compare=False)
    is_ample: bool = False
    speed: float | None = field(default=None, compare=False)

    @property
    def line(self) -> str:
        """What a plan says of it, whose types are a guess until they are measured."""
        largest = {fmts[-1].name for fmts in self.ladders.values()}
        ample = f"; even {' and '.join(sorted(largest))} fit, and floats are never chosen" if self.is_ample else ""
        return f"for at most {self.limit.label}; those above are a guess by bits alone{ample}"


def limit_of(
    size: int | str | None,
    bpw: float | None,
    fit_ram: int | str | None = None,
    context: int | None = None,
    beside: Beside | None = None,
) -> Limit | None:
    """The arguments of `gguflike.convert`, checked: None where none is given."""
    given = {name: each for name, each in (("size", size), ("bpw", bpw), ("fit_ram", fit_ram)) if each is not None}
    if len(given) > 1:
        first, second = list(given)[:2]
        raise ArgumentError(f"cannot be given with `{first}`", field=second, got=given[second])
    if context is not None and fit_ram is None:
        raise ArgumentError("says nothing without `fit_ram`", field="context", got=context)
    if bpw is not None:
        check_number("bpw", bpw, "a number of bits, such as 4.25", lambda value: 1 <= value <= 32)
        return Limit("bpw", f"{bpw:g}bpw", bpw=float(bpw))
    if size is not None:
        nbytes, label = _bytes("size", size)
        return Limit("size", label, nbytes=nbytes)
    if fit_ram is None:
        return None
    memory, label = _bytes("fit_ram", fit_ram)
    if beside is None:
        raise ArgumentError(
            "what a model takes beside its weights is not known",
            field="fit_ram",
            got=label,
            remedy="add `beside=gguflike.runner.needs.beside_weights`",
        )
    tokens = check_integer("context", CONTEXT if context is None else context, 1)
    return Limit("fit_ram", f"{label} with a context of {tokens}", nbytes=memory, context=tokens, beside=beside)


def _bytes(field: str, given: int | str) -> tuple[int, str]:
    """A size in bytes, and how it is called."""
    text = str(given) if as_integer(given) is not None else given
    check_text(field, text)
    label = str(text).strip()
    found = _SIZE.fullmatch(label)
    if found is None:
        raise ArgumentError("not a size", field=field, expected="bytes, or such as 4.5GiB or 500MB", got=repr(given))
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power), label


def check_limit(limit: Limit | None, selection: Selection) -> None:
    """ArgumentError for a limit beside one type for all, of which nothing is left to choose."""
    if limit is not None and selection.pure:
        raise ArgumentError(
            "one type for all matrices leaves none to choose",
            field="pure",
            got="True",
            remedy=f"leave out either it or `{limit.field}`",
        )


def sized(
    make: Callable[[Mapping[str, BlockFormat]], ConversionPlan], limit: Limit | None, selection: Selection
) -> ConversionPlan:
    """A plan within ``limit``, which says what types are still to be chosen. The types that it has are a guess, by bits
    alone.

    ArgumentError where no choice of types is so small, or there is nothing to choose.
    """
    plan = make({})
    if limit is None:
        return plan
    if plan.folding is not None:
        raise ArgumentError("types are chosen for the scales that matrices have", field="fold", got=plan.folding.method)
    free = _free(plan, selection)
    if not free:
        raise ArgumentError("there is no matrix whose type is to be chosen", field=limit.field, got=limit.label)
    ladders = {tensor.name: ladder(tensor.shape[-1]) for tensor in free}
    guess = {
        tensor.name: [
            Candidate(
                each.name,
                limit.taken(plan, tensor.name, tensor.shape, each),
                4.0**-each.bits_per_weight * tensor.weights,
            )
            for each in ladders[tensor.name]
        ]
        for tensor in free
    }
    formats = allocated(plan, limit, guess)
    bits = [fmt.bits_per_weight for fmt in formats.values()]
    near = {
        name: [each for each in ladders[name] if min(bits) - _BELOW <= each.bits_per_weight <= max(bits) + _ABOVE]
        for name in ladders
    }
    is_ample = all(fmt == ladders[name][-1] for name, fmt in formats.items())
    from gguflike.convert.cost import speed  # which few conversions need

    made = make(formats)
    return replace(made, budget=Budget(limit, near, make, is_ample, None if made.calibration else speed()))


def ladder(columns: int) -> list[BlockFormat]:
    """The types to choose from for rows of so many columns, the smallest first: those of the largest block that divides
    them, and the larger ones of any; none of ``RECENT``."""
    fits = [FORMATS[row.name] for row in KERNELS.values() if row.record and row.name not in RECENT]
    fits = [fmt for fmt in fits if fmt.is_quantized and columns % fmt.block_size == 0]
    block = max(fmt.block_size for fmt in fits)
    most = max(fmt.bits_per_weight for fmt in fits if fmt.block_size == block)
    chosen = [fmt for fmt in fits if fmt.block_size == block or fmt.bits_per_weight > most]
    return sorted(chosen, key=lambda fmt: (fmt.bits_per_weight, fmt.name))


def _free(plan: ConversionPlan, selection: Selection) -> list[PlannedTensor]:
    """The tensors whose types are chosen here: they are multiplied and encoded, and nobody has said their type."""
    names = {tensor.name for tensor in plan.tensors}
    output = _OUTPUT if _OUTPUT in names else _EMBEDDING
    free = names if plan.calibration is None else {tensor.name for tensor in plan.calibrated} | {output}
    for name, given in ((output, selection.output), (_EMBEDDING, selection.embedding)):
        if given is not None:
            free.discard(name)
    return [
        tensor
        for tensor in plan.tensors
        if tensor.name in free
        and tensor.format.is_quantized
        and not tensor.kept
        and not any(pattern.search(tensor.name) for pattern, _ in selection.tensor_types)
    ]


def allocated(
    plan: ConversionPlan, limit: Limit, candidates: Mapping[str, Sequence[Candidate]], spared: int = 0
) -> dict[str, BlockFormat]:
    """The types that cost least within the limit, by the names of tensors, with ``spared`` bytes left. ArgumentError
    where none are so small."""
    fixed = sum(limit.taken(plan, t.name, t.shape, t.format) for t in plan.tensors if t.name not in candidates)
    try:
        chosen = allocate(candidates, limit.of_tensors(plan) - fixed - spared)
    except ArgumentError:
        least = fixed + sum(min(each.nbytes for each in points) for points in candidates.values())
        if limit.bpw is not None:
            smallest = f"at least {8 * least / plan.parameters:.2f} bits per weight"
        else:
            smallest = f"at least {least + limit.others(plan):,} bytes"
        raise ArgumentError(
            "no choice of types makes the file so small", field=limit.field, expected=smallest, got=limit.label
        ) from None
    return {name: FORMATS[each.type] for name, each in chosen.items()}
