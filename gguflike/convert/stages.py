"""What carrying out a plan takes beside encoding, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from gguflike.amounts import duration, size

FOLDS, INPUTS, OUTPUTS, TYPES, ROUNDING, TUNING = "folds", "inputs", "outputs", "types", "rounding", "tuning"
_WORDS = {
    FOLDS: "moving scales",
    OUTPUTS: "measuring what outputs matter",
    TYPES: "choosing types",
    ROUNDING: "rounding",
    TUNING: "training",
}


class Stage(NamedTuple):
    """Part of what is done, by name: about how many ``seconds`` it takes where nothing else runs, and how many bytes of
    ``memory`` at most; None where that is not estimated."""

    name: str
    seconds: float | None = None
    memory: int | None = None


def stage_of(name: str, operations: float, speed: float | None, memory: int | None) -> Stage:
    """A stage that takes so many floating-point ``operations``, of which ``speed`` are made in a second."""
    return Stage(name, None if speed is None else operations / speed, memory)


def lines(stages: Iterable[Stage], disk: int) -> list[str]:
    """What a plan says of how long its stages take together, with so many bytes of ``disk`` beside the file."""
    timed = [(each, each.seconds) for each in stages if each.seconds is not None]
    if not timed:
        return []
    memory = max((each.memory for each, _ in timed if each.memory is not None), default=0)
    amounts = ((memory, "memory"), (disk, "disk until the end"))
    takes = [f"{size(count)} of {what}" for count, what in amounts if count]
    what = "calibrating" if disk and timed[-1][0].name != TUNING else _WORDS[timed[-1][0].name]
    where = f"{what} takes about {duration(sum(seconds for _, seconds in timed))} where nothing else runs"
    said = [", ".join([where, *takes[:-1], *(f"and {each}" for each in takes[-1:])])]
    if len(timed) > 1:
        said.append("of that " + ", ".join(f"{_WORDS[each.name]} {duration(seconds)}" for each, seconds in timed))
    return said


def document(stages: Iterable[Stage], disk: int) -> dict[str, Any]:
    """The stages for programs, and what they take together."""
    found = list(stages)
    known = [each.memory for each in found if each.memory is not None]
    timed = [each.seconds for each in found if each.seconds is not None]
    return {
        "stages": [{"name": each.name, "seconds": each.seconds, "memory_bytes": each.memory} for each in found],
        "seconds": sum(timed) if timed else None,
        "memory_bytes": max(known, default=None),
        "disk_bytes": disk,
    }
