"""What a conversion's bytes depend on, so that one that was cut off can go on where it was (container/journal.py)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from gguflike import __version__
from gguflike.container.writer import left_behind
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.sources import MadeSource


def made_of(plan: ConversionPlan, method: str) -> str:
    """All that the bytes depend on beside the header: versions, files as they are now, sources, importance, method.

    Not the number of threads, nor what CPU or executor does the work: the bytes are the same.
    """
    digest = hashlib.sha256()
    for text in (__version__, method, *_stamps(plan.inputs)):
        digest.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    for tensor in plan.tensors:
        for text in _described((tensor.source, tensor.format.name, tensor.importance)):
            digest.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def with_notice(plan: ConversionPlan, method: str, resume: bool) -> ConversionPlan:
    """The plan, with a notice where a run that was cut off has left something of its target."""
    if plan.target is None or plan.budget is not None:  # nobody knows yet what file that will be
        return plan
    resume = resume and plan.folding is None  # whose scales are chosen anew
    tensors, others = left_behind(plan.target, plan.layout, None)
    if others and resume:
        tensors, others = left_behind(plan.target, plan.layout, made_of(plan, method))
    notices = list(plan.notices)
    if tensors:
        notices.append(f"goes on where it was cut off: {tensors} of {len(plan.tensors)} tensors are written already")
    if others:
        why = "was made of other files or options" if resume else "is not gone on with"
        notices.append(f"what a run that was cut off has left of this target {why}, and is removed")
    return dataclasses.replace(plan, notices=tuple(notices))


def _stamps(paths: tuple[str, ...]) -> Iterator[str]:
    """The state of each file: a changed one makes other bytes. Not its device, which a reboot may number anew."""
    for path in sorted(set(paths)):
        if os.path.exists(path):  # noqa: PTH110 - what comes from elsewhere has no state here
            status = Path(path).stat()
            yield f"{os.path.realpath(path)} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        else:
            yield path


def _described(value: Any) -> Iterator[str]:
    """A description in parts that is the same in every process: no addresses, no order that changes."""
    if isinstance(value, MadeSource):
        yield from ("made", value.name, *_described(np.asarray(value.make())))
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, functools.partial):
        yield from ("partial", *_described((value.func, value.args, value.keywords)))
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}"
        for key in sorted(value, key=repr):
            yield from _described((key, value[key]))
    elif isinstance(value, list | tuple):
        yield f"{type(value).__qualname__} {len(value)}"
        for each in value:
            yield from _described(each)
    elif isinstance(value, set | frozenset):
        yield from ("set", *sorted(text for each in value for text in _described(each)))
    elif hasattr(value, "_fields"):  # frozen.frozen
        yield type(value).__qualname__
        yield from _described([getattr(value, name) for name in value._fields])
    elif dataclasses.is_dataclass(value):
        yield type(value).__qualname__
        yield from _described([getattr(value, each.name) for each in dataclasses.fields(value)])
    elif isinstance(value, FunctionType):
        yield f"{value.__module__} {value.__qualname__}"
        yield from _described([cell.cell_contents for cell in value.__closure__ or ()])
    elif isinstance(value, type) or not hasattr(value, "__dict__"):
        yield repr(value)
    else:
        yield type(value).__qualname__
        yield from _described(vars(value))
