"""Types by what they cost, in a file of at most so many bytes: what is asked for, and what there is to choose from.

What each type costs is measured when the plan is carried out (`convert.allocation`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate.allocate import Candidate, allocate
from gguflike.container.layout import align_up
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.convert.recipe import RECIPES
from gguflike.convert.selection import Selection
from gguflike.errors import ArgumentError, as_integer, check_number, check_text
from gguflike.kernels.table import KERNELS

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_BELOW, _ABOVE = 1.2, 2.4  # bits around what all would have at the same loss: types that are measured


@dataclass(frozen=True)
class Limit:
    """How large a file may be: ``nbytes`` with its header, or ``bpw`` bits for each of its weights; ``label`` as it was
    given."""

    nbytes: int | None
    bpw: float | None
    label: str

    def of_tensors(self, plan: ConversionPlan) -> int:
        """Bytes that the tensors of a plan may have together, with what stands between them."""
        if self.nbytes is not None:
            return self.nbytes - sum(file.header_bytes for file in plan.files)
        assert self.bpw is not None
        return int(self.bpw * plan.parameters / 8)

    @property
    def recipe(self) -> Recipe:
        """The recipe for what is not measured: an embedding that is no output matrix."""
        return replace(RECIPES["Q4_K_S"], name=self.label, rules=(), alias="", mix="Q4_K_S", wants_imatrix=False)


@dataclass(frozen=True)
class Budget:
    """Types that are still to be chosen: those of the tensors ``free``, from ``ladders``, so that the file keeps to the
    ``limit``. ``make(formats)`` is the plan with these types by the names of tensors."""

    limit: Limit
    ladders: Mapping[str, Sequence[BlockFormat]] = field(repr=False)
    make: Callable[[Mapping[str, BlockFormat]], ConversionPlan] = field(repr=False, compare=False)


def limit_of(size: int | str | None, bpw: float | None) -> Limit | None:
    """The arguments of `gguflike.convert`, checked: None where neither is given."""
    if size is not None and bpw is not None:
        raise ArgumentError("cannot be given with `size`", field="bpw", got=bpw)
    if bpw is not None:
        check_number("bpw", bpw, "a number of bits, such as 4.25", lambda value: 1 <= value <= 32)
        return Limit(None, float(bpw), f"{bpw:g}bpw")
    if size is None:
        return None
    text = str(size) if as_integer(size) is not None else size
    check_text("size", text)
    label = str(text).strip()
    found = _SIZE.fullmatch(label)
    if found is None:
        raise ArgumentError("not a size", field="size", expected="bytes, or such as 4.5GiB or 500MB", got=repr(size))
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return Limit(int(float(found[1]) * (1024 if found[3] else 1000) ** power), None, label)


def sized(
    make: Callable[[Mapping[str, BlockFormat]], ConversionPlan], limit: Limit | None, selection: Selection
) -> ConversionPlan:
    """A plan within ``limit``, which says what types are still to be chosen. The types that it has are a guess, by bits
    alone.

    ArgumentError where no choice of types is so small, or what types cost is not measured.
    """
    plan = make({})
    if limit is None:
        return plan
    if plan.calibration is None or not plan.calibration.effort.is_loss_aware:
        raise ArgumentError(
            "which types to take is known by what each of them costs, which is not measured",
            field="bpw" if limit.nbytes is None else "size",
            got=limit.label,
            remedy="add `effort=2`",
        )
    if plan.folding is not None:
        raise ArgumentError("types are chosen for the scales that matrices have", field="fold", got=plan.folding.method)
    free = _free(plan, selection)
    ladders = {tensor.name: ladder(tensor.shape[-1]) for tensor in free}
    guess = {
        tensor.name: [
            Candidate(each.name, padded(plan, tensor.shape, each), 4.0**-each.bits_per_weight * tensor.weights)
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
    return replace(make(formats), budget=Budget(limit, near, make))


def ladder(columns: int) -> list[BlockFormat]:
    """The types to choose from for rows of so many columns, the smallest first: those of the largest block that divides
    them, and the larger ones of any."""
    fits = [FORMATS[row.name] for row in KERNELS.values() if row.record]
    fits = [fmt for fmt in fits if fmt.is_quantized and columns % fmt.block_size == 0]
    block = max(fmt.block_size for fmt in fits)
    most = max(fmt.bits_per_weight for fmt in fits if fmt.block_size == block)
    chosen = [fmt for fmt in fits if fmt.block_size == block or fmt.bits_per_weight > most]
    return sorted(chosen, key=lambda fmt: (fmt.bits_per_weight, fmt.name))


def _free(plan: ConversionPlan, selection: Selection) -> list[PlannedTensor]:
    """The tensors whose types are chosen here: they are multiplied and encoded, and nobody has said their type."""
    assert plan.calibration is not None
    head: Any = plan.calibration.graph.head
    output = "token_embd.weight" if head.tied else "output.weight"
    free = {tensor.name for tensor in plan.calibrated} | {output}
    for name, given in ((output, selection.output), ("token_embd.weight", selection.embedding)):
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


def padded(plan: ConversionPlan, shape: tuple[int, ...], fmt: BlockFormat) -> int:
    """Bytes of a tensor of ``shape`` in a type, with what fills them up to where the next one may stand."""
    return align_up(fmt.tensor_bytes(shape), plan.file.alignment)


def allocated(
    plan: ConversionPlan, limit: Limit, candidates: Mapping[str, Sequence[Candidate]]
) -> dict[str, BlockFormat]:
    """The types that cost least within the limit, by the names of tensors. ArgumentError where none are so small."""
    fixed = sum(align_up(t.nbytes, plan.file.alignment) for t in plan.tensors if t.name not in candidates)
    given = "bpw" if limit.nbytes is None else "size"
    try:
        chosen = allocate(candidates, limit.of_tensors(plan) - fixed)
    except ArgumentError:
        least = fixed + sum(min(each.nbytes for each in points) for points in candidates.values())
        if limit.nbytes is None:
            smallest = f"at least {8 * least / plan.parameters:.2f} bits per weight"
        else:
            smallest = f"at least {least + sum(file.header_bytes for file in plan.files):,} bytes"
        raise ArgumentError(
            "no choice of types makes the file so small", field=given, expected=smallest, got=limit.label
        ) from None
    return {name: FORMATS[each.type] for name, each in chosen.items()}
