"""Types by what they cost: of every matrix those whose loss is least, in a file of at most so many bytes.

What types cost a matrix is measured with their plain encoders, which are quick. How much less it will be when errors
are fed back depends on the matrix (a twelfth to two thirds, where inputs are more or less alike) and hardly on the
type, so that one type tells: each matrix is rounded once, as it will be, to a type of scalars that is about as large as
the one that the plain encoders would choose.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate import files
from gguflike.calibrate.allocate import Candidate, Candidates
from gguflike.calibrate.grids import GRIDS
from gguflike.container.claimed import kept_folder
from gguflike.container.writer import may_go_on
from gguflike.convert.budget import Budget
from gguflike.convert.costs import Costs, Measured
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.prior import Prior, relative_errors
from gguflike.convert.resume import made_of
from gguflike.convert.sized import allocated, exceeded, taken
from gguflike.progress import Progress, calibrating
from gguflike.tensor import QuantizedTensor, quantize

if TYPE_CHECKING:
    from gguflike.calibrate.statistics import Statistics
    from gguflike.convert.losses import Loss
    from gguflike.convert.sources import Floats

Ladders = Mapping[str, Sequence[BlockFormat]]
Encode = Callable[["Floats", BlockFormat, "Statistics"], Any]
TERNARY = 3  # levels
OUTPUTS = "outputs"  # the folder of factors
PART = 1 << 22  # weights of a table that are encoded at once


@contextmanager
def settling(
    plan: ConversionPlan, threads: int | None, progress: Progress | None, resume: bool
) -> Iterator[ConversionPlan]:
    """The plan with types that were chosen by measuring, whose factors serve the rounding while the block runs.

    What is measured is in a folder beside the target, until the block ends: where it is cut off, and with ``resume``,
    the next run finds it there. OutputError where there is no room for it.
    """
    assert plan.target is not None
    assert plan.budget is not None
    with kept_folder(plan.target, _made_of(plan), resume, may_go_on) as folder:
        if plan.calibration is not None:
            missing = plan.file_bytes + plan.calibration.disk - files.taken(folder.rglob("*"))
            files.check_rooms({folder: missing})
        chosen, candidates = settled(plan, folder, threads, progress)
        cost = sum(each.cost for each in candidates)
        how = "estimated" if plan.calibration and plan.calibration.effort.is_loss_aware else "expected (by a prior)"
        said = f"types chosen for an {how} divergence of {cost:.5f} nats per token, before errors are made up for"
        yield replace(chosen, notices=(*chosen.notices, said), outputs=os.fspath(folder / OUTPUTS))


def _made_of(plan: ConversionPlan) -> str:
    """All that costs depend on: the sources, the text, what is rounded how, and the types to choose from."""
    assert plan.budget is not None
    calibration = plan.calibration
    ladders = {name: [fmt.name for fmt in ladder] for name, ladder in plan.budget.ladders.items()}
    how = None if calibration is None else (calibration.effort.level, calibration.effort.seed, calibration.rounding)
    text = repr((made_of(plan, ""), ladders, how, getattr(calibration, "sequences", None)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def settled(
    plan: ConversionPlan, folder: Path, threads: int | None, progress: Progress | None
) -> tuple[ConversionPlan, list[Candidate]]:
    """The plan with the types that cost least, and these, as measured. ``folder`` holds what measuring needs, and what
    an earlier run has measured; what is in its folder ``outputs`` serves the rounding, too."""
    budget, calibration = plan.budget, plan.calibration
    assert budget is not None
    if calibration is None:
        costs = Measured(folder / "expected.jsonl")
        _expect(plan, budget.ladders, costs, threads, progress)
        return _chosen(plan, budget, _candidates(plan, costs))
    from gguflike.convert.losses import loss_of

    loss = loss_of(calibration, folder / OUTPUTS, threads, progress)

    def measured(name: str, ladders: Ladders, encode: Encode, what: str) -> Candidates:
        costs = Measured(folder / f"{name}.jsonl")
        if not costs.complete:
            _measure(plan, loss, ladders, encode, costs, folder / name, threads, progress, what)
            costs.finish()
        shutil.rmtree(folder / name, ignore_errors=True)
        return _candidates(plan, costs)

    def plain(weights: Floats, fmt: BlockFormat, statistics: Statistics) -> Any:
        return quantize(weights, fmt, importance=statistics.importance, threads=threads)

    def rounded(weights: Floats, fmt: BlockFormat, statistics: Statistics) -> Any:
        from gguflike.calibrate.rounding import round_matrix

        data = round_matrix(weights, fmt, statistics, calibration.rounding, threads)
        return QuantizedTensor("", fmt, weights.shape, data.reshape(-1))

    screened = measured("plain", budget.ladders, plain, "types")
    first = allocated(plan, budget.limit, screened)
    probes = {name: [probe(budget.ladders[name], fmt)] for name, fmt in first.items()}
    of = hashlib.sha256(repr({name: fmt.name for name, (fmt,) in probes.items()}).encode()).hexdigest()[:16]
    candidates = refined(screened, measured(f"rounded-{of}", probes, rounded, "types, as they will be rounded"))
    return _chosen(plan, budget, candidates)


def _chosen(plan: ConversionPlan, budget: Budget, candidates: Candidates) -> tuple[ConversionPlan, list[Candidate]]:
    """The plan with the types that cost least, which is no larger than it may be: where it has larger headers than the
    first guess, or more of them, tensors have to be smaller."""
    from gguflike.convert.carded import with_card

    assert plan.remade is not None
    spared = 0
    while True:
        formats = allocated(plan, budget.limit, candidates, spared)
        made = plan.remade(formats)
        made = made if plan.card is None else with_card(made, plan.card)
        over = exceeded(budget.limit, made)
        if over <= 0:
            return made, [each for name in formats for each in candidates[name] if each.type == formats[name].name]
        spared += over


def _candidates(plan: ConversionPlan, costs: Mapping[str, Costs]) -> Candidates:
    """What tensors take and cost in each type."""
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    return {
        name: [Candidate(each, _taken(plan, name, shapes[name], FORMATS[each]), cost) for each, cost in found.items()]
        for name, found in costs.items()
    }


def _expect(
    plan: ConversionPlan, ladders: Ladders, costs: Measured, threads: int | None, progress: Progress | None
) -> None:
    """What types cost where no text is read: by what their encoders are off on pieces of each tensor, and a prior."""
    prior = Prior(ladders)
    tensors, tell = [tensor for tensor in plan.tensors if tensor.name in ladders], calibrating(progress, "types, ")
    for number, tensor in enumerate(tensors):
        tell(number, len(tensors), tensor.name)
        if tensor.name not in costs:
            errors = relative_errors(tensor, ladders[tensor.name], threads)
            costs.add(tensor.name, {fmt.name: prior.cost(tensor.name, *each) for fmt, each in errors.items()})


def probe(ladder: Sequence[BlockFormat], fmt: BlockFormat) -> BlockFormat:
    """The type of scalars that is about as large as ``fmt``: these are rounded quickly. No ternary ones, whose plain
    encoder takes most of a matrix for nothing."""
    scalar = [each for each in ladder if each.name in GRIDS and len(GRIDS[each.name].levels) > TERNARY] or [fmt]
    return min(scalar, key=lambda each: abs(each.bits_per_weight - fmt.bits_per_weight))


def refined(
    screened: Mapping[str, Sequence[Candidate]], rounded: Mapping[str, Sequence[Candidate]]
) -> dict[str, list[Candidate]]:
    """Candidates whose costs fall as those did that were ``rounded``, of each name one."""
    found = {}
    for name, points in screened.items():
        (after,) = rounded[name]
        before = next(each.cost for each in points if each.type == after.type)
        share = after.cost / before if before > 0 else 1.0
        found[name] = [each._replace(cost=share * each.cost) for each in points]
    return found


def _measure(
    plan: ConversionPlan,
    loss: Loss,
    ladders: Ladders,
    encode: Encode,
    costs: Measured,
    folder: Path,
    threads: int | None,
    progress: Progress | None,
    what: str,
) -> None:
    """What each matrix costs in each type of its ladder, encoded by ``encode`` for the float model's inputs: of those
    that are not in ``costs``, into these."""
    calibration = plan.calibration
    assert calibration is not None

    def take(names: tuple[str, ...], statistics: Any) -> None:
        """Measure matrices that multiply what the ``statistics`` are of."""
        for name in names:
            if name not in ladders or name in costs:
                continue
            weights = calibration.model.read(name)
            matrices = weights.reshape(-1, *weights.shape[-2:])
            each: Sequence[Statistics] = statistics if weights.ndim > 2 else [statistics]
            found = {fmt.name: 0.0 for fmt in ladders[name]}
            for member, matrix in enumerate(matrices):
                known = loss.beside(name, member, each[member])
                for fmt in ladders[name]:
                    errors = matrix - encode(matrix, fmt, known).dequantize(threads)
                    found[fmt.name] += loss.cost(name, member, known, matrix, errors)
            costs.add(name, found)

    tell = calibrating(progress, f"{what}, ")
    for name in ladders:
        if loss.table(name) is not None and name not in costs:
            costs.add(name, _of_table(plan, loss, name, ladders[name], encode, threads))
    resumed = folder.exists()
    calibration.watch(take, costs, folder, threads, tell)
    if resumed and any(name not in costs for name in ladders):  # lost since their layer was done
        shutil.rmtree(folder)
        calibration.watch(take, costs, folder, threads, tell)


def _of_table(
    plan: ConversionPlan, loss: Loss, name: str, ladder: Sequence[BlockFormat], encode: Encode, threads: int | None
) -> Costs:
    """What a table costs, of which a part of the rows is in memory at a time."""
    assert plan.calibration is not None
    model, table = plan.calibration.model, loss.table(name)
    assert table is not None
    statistics, costs = table.statistics, {fmt.name: 0.0 for fmt in ladder}
    for start, part in model.parts(name, PART):
        for fmt in ladder:
            costs[fmt.name] += table.cost(part - encode(part, fmt, statistics).dequantize(threads), start)
    return costs


def _taken(plan: ConversionPlan, name: str, shape: tuple[int, ...], fmt: BlockFormat) -> int:
    """Bytes that a tensor takes of what the plan is limited to."""
    assert plan.budget is not None
    return taken(plan.budget.limit, plan, name, shape, fmt)
