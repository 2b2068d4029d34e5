"""Carrying out a plan: one tensor at a time, or one per worker of an executor, into a file that appears complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from gguflike.container import Receipt, Writer
from gguflike.convert.encode import Job, run
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.errors import OutputError, check_choice, check_threads
from gguflike.kernels.prepare import prepare
from gguflike.progress import Progress
from gguflike.tensor import METHODS, Method


def check_options(method: str, threads: int | None) -> None:
    """Raise ArgumentError for a method that does not exist or fewer threads than one, before anything is opened."""
    check_choice("method", method, METHODS)
    check_threads(threads)


def execute(
    plan: ConversionPlan,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    method: Method = "search",
    overwrite: bool = True,
) -> None:
    """Write the file of ``plan`` to its target, which must be none of the files that the plan reads.

    With an ``executor``, each task encodes one tensor and writes it to its place, so workers must share the file
    system; twice as many tensors as workers are submitted at a time. The bytes are the same whatever carries it out.
    """
    if plan.target is None:
        raise OutputError("the plan names no target")
    done = 0

    def advance(count: int, what: str) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, plan.file_bytes, what)

    with Writer(plan.target, plan.file, overwrite, plan.inputs) as writer:
        prepare((need for tensor in plan.tensors for need in _job(tensor, method, threads).kernels()), progress)
        advance(plan.file.header_bytes, "header")
        if executor is None:
            for tensor in plan.tensors:
                _write(writer, tensor.name, _job(tensor, method, threads), advance)
        else:
            # Parallel over tensors, so each task stays on one thread unless told otherwise.
            _spread(writer, plan.tensors, executor, lambda tensor: _job(tensor, method, threads or 1), advance)


def _job(tensor: PlannedTensor, method: Method, threads: int | None) -> Job:
    return Job(tensor.source, tensor.format.name, tensor.importance, method, threads)


def _write(writer: Writer, name: str, job: Job, advance: Callable[[int, str], None]) -> None:
    offset = 0
    for part in job.parts():
        writer.write_part(name, offset, part)
        offset += part.nbytes
        advance(part.nbytes, name)


def _spread(
    writer: Writer,
    tensors: Iterable[PlannedTensor],
    executor: Executor,
    job: Callable[[PlannedTensor], Job],
    advance: Callable[[int, str], None],
) -> None:
    workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    pending: set[Future[Receipt]] = set()
    try:
        for tensor in tensors:
            if len(pending) >= 2 * workers:
                pending = _collect(writer, pending, advance)
            pending.add(executor.submit(run, job(tensor), writer.slot(tensor.name)))
        while pending:
            pending = _collect(writer, pending, advance)
    except BaseException:
        for future in pending:
            future.cancel()
        wait(pending)  # nobody writes any more when the temporary file is removed
        raise


def _collect(
    writer: Writer, pending: set[Future[Receipt]], advance: Callable[[int, str], None]
) -> set[Future[Receipt]]:
    finished, remaining = wait(pending, return_when=FIRST_COMPLETED)
    for future in finished:
        receipt = future.result()
        writer.accept(receipt)
        advance(receipt.end - receipt.start, receipt.name)
    return remaining
