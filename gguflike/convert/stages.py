"""What carrying out a plan takes beside encoding, stage by stage: for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.convert import cost
from gguflike.convert.cost import duration

if TYPE_CHECKING:
    from gguflike.convert.plan import ConversionPlan

FOLDS, OUTPUTS, TYPES, ROUNDING, TUNING = "folds", "outputs", "types", "rounding", "tuning"
_WORDS = {OUTPUTS: "measuring what outputs matter", TYPES: "choosing types", ROUNDING: "rounding"}


class Stage(NamedTuple):
    """Part of what is done, by name: about how many ``seconds`` it takes where nothing else runs, and how many bytes of
    ``memory`` at most; None where that is not estimated."""

    name: str
    seconds: float | None = None
    memory: int | None = None


def stages(plan: ConversionPlan) -> tuple[Stage, ...]:
    """The stages of a plan, in their order; none where tensors are only encoded."""
    calibration, budget, found = plan.calibration, plan.budget, list[Stage]()
    speed = calibration.speed if calibration is not None else None if budget is None else budget.speed
    if plan.folding is not None:
        found.append(Stage(FOLDS))
    if calibration is not None:
        found += [_stage(name, count, speed, memory) for name, count, memory in calibration.stages(plan.calibrated)]
    if budget is not None:
        count = cost.choosing(calibration, budget.ladders, plan.tensors)
        memory = None if calibration is None else calibration.choosing_memory
        found.insert(len(found) - (calibration is not None), _stage(TYPES, count, speed, memory))  # before rounding
    if plan.tuning is not None:
        found.append(Stage(TUNING, plan.tuning.seconds, plan.tuning.memory))
    return tuple(found)


def _stage(name: str, operations: float, speed: float | None, memory: int | None) -> Stage:
    return Stage(name, None if speed is None else operations / speed, memory)


def lines(plan: ConversionPlan) -> list[str]:
    """What a plan says of how long its stages take together; of folds and of tuning they are told elsewhere."""
    own = [(each, each.seconds) for each in stages(plan) if each.name in _WORDS]
    timed = [(each, seconds) for each, seconds in own if seconds is not None]
    if not timed:
        return []
    disk = 0 if plan.calibration is None else plan.calibration.disk
    memory = max((each.memory for each, _ in timed if each.memory is not None), default=0)
    takes = [size for size in (_of(memory, "memory"), _of(disk, "disk until the end")) if size]
    what = "calibrating" if disk else _WORDS[timed[-1][0].name]
    where = f"{what} takes about {duration(sum(seconds for _, seconds in timed))} where nothing else runs"
    said = [", ".join([where, *takes[:-1], *(f"and {each}" for each in takes[-1:])])]
    if len(timed) > 1:
        said.append("of that " + ", ".join(f"{_WORDS[each.name]} {duration(seconds)}" for each, seconds in timed))
    return said


def _of(size: int, what: str) -> str:
    return f"{size / 1e9:.1f} GB of {what}" if size else ""


def document(plan: ConversionPlan) -> dict[str, Any] | None:
    """The same as JSON, with what text a model is calibrated on. None where tensors are only encoded."""
    found = stages(plan)
    if not found:
        return None
    calibration = plan.calibration
    known = [each.memory for each in found if each.memory is not None]
    timed = [each.seconds for each in found if each.seconds is not None]
    about: dict[str, Any] = {"effort": 0, "texts": [], "tokens": 0, "hessians": None}
    if calibration is not None:
        about = calibration.document()
    return {
        **about,
        "fold": None if plan.folding is None else plan.folding.method,
        "limit": None if plan.budget is None else plan.budget.limit.label,
        "stages": [{"name": each.name, "seconds": each.seconds, "memory_bytes": each.memory} for each in found],
        "seconds": sum(timed) if timed else None,
        "memory_bytes": max(known, default=None),
        "disk_bytes": 0 if calibration is None else calibration.disk,
    }
