"""Types by what they cost: of every matrix those whose loss is least, in a file of at most so many bytes.

What a matrix in a type costs is measured: it is encoded so, for the inputs that it has in the float model, and the
second-order estimate of the divergence is 1/2 tr(H_O E H_I E^T) for each token, with H_I of its inputs, H_O of its
outputs (`calibrate.sensitivities`) and E what the encoding is off. An output matrix has no H_O: its rows count as often
as the tokens that they are of occur in the text, which leaves out that logits compete and so is an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike import frozen
from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate.allocate import Candidate, allocate
from gguflike.calibrate.rounding import round_matrix
from gguflike.calibrate.stream import stream
from gguflike.container.layout import align_up
from gguflike.convert.mixes import Recipe
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.convert.recipe import RECIPES
from gguflike.convert.selection import Selection
from gguflike.errors import ArgumentError, as_integer, check_number, check_text
from gguflike.kernels.table import KERNELS
from gguflike.progress import CALIBRATING, Progress
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities
    from gguflike.calibrate.statistics import Statistics
    from gguflike.convert.sources import Floats

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
    ladders = {t.name: ladder(t.shape[-1]) for t in plan.tensors if _is_free(plan, t, selection)}
    guess = {
        name: [
            Candidate(each.name, _padded(plan, name, each), 4.0**-each.bits_per_weight * _weights(plan)[name])
            for each in ladders[name]
        ]
        for name in ladders
    }
    formats = _allocated(plan, limit, guess)
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


def _is_free(plan: ConversionPlan, tensor: PlannedTensor, selection: Selection) -> bool:
    """Whether the type of a tensor is chosen here: it is multiplied and encoded, and nobody has said its type."""
    assert plan.calibration is not None
    head: Any = plan.calibration.graph.head
    named = any(pattern.search(tensor.name) for pattern, _ in selection.tensor_types)
    output = tensor.name == ("token_embd.weight" if head.tied else "output.weight")
    if named or tensor.kept or not tensor.format.is_quantized or (output and selection.output is not None):
        return False
    return output or tensor.name in {each.name for each in plan.calibrated}


def _weights(plan: ConversionPlan) -> dict[str, int]:
    return {tensor.name: tensor.weights for tensor in plan.tensors}


def _padded(plan: ConversionPlan, name: str, fmt: BlockFormat) -> int:
    """Bytes of a tensor in a type, with what fills them up to where the next one may stand."""
    shape = next(tensor.shape for tensor in plan.tensors if tensor.name == name)
    return align_up(fmt.tensor_bytes(shape), plan.file.alignment)


def _allocated(
    plan: ConversionPlan, limit: Limit, candidates: Mapping[str, Sequence[Candidate]]
) -> dict[str, BlockFormat]:
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


def settled(
    plan: ConversionPlan, folder: Path, threads: int | None, progress: Progress | None
) -> tuple[ConversionPlan, list[Candidate]]:
    """The plan with the types that cost least, and these, as measured. ``folder`` holds what measuring needs; what is
    in its folder ``outputs`` serves the rounding, too."""
    budget, calibration = plan.budget, plan.calibration
    assert budget is not None
    assert calibration is not None
    read = calibration.model.read
    sensitivities = calibration.sensitivities(read, folder / "outputs", threads, progress)
    measuring = _Measuring(plan, sensitivities, threads)

    def tell(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(done, total, f"{CALIBRATING}types, {what}")

    stream(
        calibration.graph,
        read,
        calibration.sequences,
        None,
        folder / "measuring",
        found=measuring.take,
        rows=calibration.model.rows,
        length=calibration.sequence,
        threads=threads,
        progress=tell,
    )
    formats = _allocated(plan, budget.limit, measuring.candidates)
    chosen = [each for name in formats for each in measuring.candidates[name] if each.type == formats[name].name]
    return budget.make(formats), chosen


class _Measuring:
    """Measures what each matrix costs in each type of its ladder: ``candidates``, by the names of tensors."""

    def __init__(self, plan: ConversionPlan, sensitivities: Sensitivities, threads: int | None) -> None:
        assert plan.budget is not None
        assert plan.calibration is not None
        self.candidates: dict[str, list[Candidate]] = {}
        self._plan, self._sensitivities, self._threads = plan, sensitivities, threads
        self._ladders, self._read = plan.budget.ladders, plan.calibration.model.read
        self._options = plan.calibration.rounding
        counts = np.bincount(np.concatenate([np.asarray(each) for each in plan.calibration.sequences]))
        self._counts = counts

    def take(self, names: tuple[str, ...], statistics: Any) -> None:
        """Measure matrices that multiply what the ``statistics`` are of."""
        for name in names:
            if name not in self._ladders:
                continue
            weights = self._read(name)
            matrices = weights.reshape(-1, *weights.shape[-2:])
            each: Sequence[Statistics] = statistics if weights.ndim > 2 else [statistics]
            self.candidates[name] = [
                Candidate(
                    fmt.name,
                    _padded(self._plan, name, fmt),
                    sum(self._cost(name, i, one, matrices[i], fmt) for i, one in enumerate(each)),
                )
                for fmt in self._ladders[name]
            ]

    def _cost(self, name: str, member: int, statistics: Statistics, weights: Floats, fmt: BlockFormat) -> float:
        """Nats for each token of the text."""
        output = self._sensitivities.output(name, member)
        data = round_matrix(weights, fmt, frozen.replace(statistics, output=output), self._options, self._threads)
        decoded = QuantizedTensor(name, fmt, weights.shape, data.reshape(-1)).dequantize(self._threads)
        errors = weights - decoded
        if output is not None:
            product = output @ errors @ statistics.gram
            return 0.5 * self._sensitivities.scale(name, member) * float((product * errors).sum(dtype=np.float64))
        each = ((errors @ statistics.gram) * errors).sum(axis=1, dtype=np.float64)
        if len(self._counts) <= len(weights) and weights.ndim == 2 and not name.startswith("blk."):
            counts = np.bincount(np.arange(len(self._counts)), self._counts, len(weights)) + 1.0
            return 0.5 * float((each * counts).sum() / counts.sum())
        return 0.5 * self._sensitivities.mean * float(each.sum())
