"""A plan that keeps to a limit: how large it is, and which types there are to choose from.

What each type costs is measured when the plan is carried out (`convert.allocation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate.allocate import Candidate, allocate
from gguflike.container.layout import align_up
from gguflike.convert.budget import Budget, Limit
from gguflike.convert.plan import ConversionPlan, Remade
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.selection import Selection
from gguflike.errors import ArgumentError
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.table import KERNELS

RECENT = frozenset({"MXFP4", "NVFP4", "Q1_0", "Q2_0"})  # types that many programs do not read yet: only if asked for
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_BELOW, _ABOVE = 1.2, 2.4  # bits around what all would have at the same loss: types that are measured


def sized(make: Remade, limit: Limit | None, selection: Selection) -> ConversionPlan:
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
                taken(limit, plan, tensor.name, tensor.shape, each),
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
    from gguflike.convert.workload import speed  # which few conversions need

    made = make(formats)
    rate = None if made.calibration else speed()
    return replace(made, budget=Budget(limit, near, is_ample, rate), remade=make)


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
    fixed = sum(taken(limit, plan, t.name, t.shape, t.format) for t in plan.tensors if t.name not in candidates)
    try:
        chosen = allocate(candidates, of_tensors(limit, plan) - fixed - spared)
    except ArgumentError:
        least = fixed + sum(min(each.nbytes for each in points) for points in candidates.values())
        if limit.bpw is not None:
            smallest = f"at least {ceil(800 * least / plan.parameters) / 100:.2f} bits per weight"
        else:
            smallest = f"at least {least + others(limit, plan):,} bytes"
        small = "the file so small" if limit.beside is None else "the model run in so little memory"
        raise ArgumentError(
            f"no choice of types makes {small}", field=limit.field, expected=smallest, got=limit.label
        ) from None
    return {name: FORMATS[each.type] for name, each in chosen.items()}


def of_tensors(limit: Limit, plan: ConversionPlan) -> int:
    """Bytes that the tensors of a plan may have together, with what stands between them."""
    if limit.bpw is not None:
        return int(limit.bpw * plan.parameters / 8)
    assert limit.nbytes is not None
    return limit.nbytes - others(limit, plan)


def others(limit: Limit, plan: ConversionPlan) -> int:
    """Bytes that go from the limit for other things than tensors."""
    headers = sum(file.header_bytes for file in plan.files)
    if limit.beside is None:
        return headers
    graph = (plan.float_model() if plan.calibration is None else plan.calibration).graph
    return headers + limit.beside(graph, limit.context)


def exceeded(limit: Limit, plan: ConversionPlan) -> int:
    """Bytes by which a plan is too large, or less than 0; of bits for each weight it is what was reckoned."""
    if limit.bpw is not None:
        return 0
    if limit.beside is None:
        tensors = sum(file.file_bytes - file.header_bytes for file in plan.files)
    else:
        tensors = sum(taken(limit, plan, tensor.name, tensor.shape, tensor.format) for tensor in plan.tensors)
    return tensors - of_tensors(limit, plan)


def taken(limit: Limit, plan: ConversionPlan, name: str, shape: tuple[int, ...], fmt: BlockFormat) -> int:
    """Bytes that a tensor takes of the limit in a type: those of the file, with what fills them up to where the
    next one may stand; or where the limit is of memory, those that the runner has of it."""
    if limit.beside is None:
        return align_up(fmt.tensor_bytes(shape), plan.file.alignment)
    if len(shape) < 2:
        return 0  # ``beside`` has what is made of it
    how = linear_plan(fmt) if fmt.is_quantized else None
    is_table = name == _EMBEDDING and any(tensor.name == _OUTPUT for tensor in plan.tensors)
    if how is None or how.repack is None or is_table:  # read where it lies in the file
        return fmt.tensor_bytes(shape)
    packed = how.packed_bytes(*shape[-2:]) * prod(shape[:-2])
    return packed + (fmt.tensor_bytes(shape) if name == _EMBEDDING else 0)
