"""Carrying out a plan: one tensor at a time, or one per worker of an executor, into a file that appears complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from functools import partial

from gguflike.container import FilePlan, Receipt, Writer, check_free
from gguflike.container.publish import check_folder, made_folder
from gguflike.convert import pipeline
from gguflike.convert.encode import Job, run
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.proof import proven
from gguflike.convert.resume import made_of, with_notice
from gguflike.convert.sources import closing_sources, elsewhere, reading_ahead
from gguflike.errors import GGUFLikeError, OutputError, check_choice, check_threads
from gguflike.kernels.prepare import prepare
from gguflike.progress import Progress
from gguflike.tensor import METHODS, Method


def check_options(method: str, threads: int | None) -> None:
    """Raise ArgumentError for a method that does not exist or fewer threads than one, before anything is opened."""
    check_choice("method", method, METHODS)
    check_threads(threads)


def check_targets(plan: ConversionPlan, overwrite: bool) -> None:
    """OutputError where a file that is to be written exists and may not be replaced, or its folder takes none: before
    anything takes time."""
    for path in plan.paths:
        check_free(path, overwrite)
        check_folder(path)


def carry_out(
    plan: ConversionPlan,
    *,
    dry_run: bool,
    executor: Executor | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    method: Method = "search",
    overwrite: bool,
    resume: bool,
) -> ConversionPlan:
    """Prove and write ``plan``, unless it is a dry run; the plan, with what there is to know of it by then.

    The arguments are those of `execute`.
    """
    plan = with_notice(plan, method, resume)
    if dry_run:
        return plan
    check_targets(plan, overwrite)
    plan = proven(plan)
    return execute(
        plan,
        executor=executor,
        progress=progress,
        threads=threads,
        method=method,
        overwrite=overwrite,
        resume=resume,
    )


def execute(
    plan: ConversionPlan,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    method: Method = "search",
    overwrite: bool = False,
    resume: bool = True,
) -> ConversionPlan:
    """Write the files of ``plan`` to its target, which must be none of the files that the plan reads; the plan, with
    what there is to know of it by then.

    With an ``executor``, each task encodes one tensor and writes it to its place, so workers must share the file
    system; twice as many tensors as workers are submitted at a time. The bytes are the same whatever carries it out.
    A folder that is missing is made.

    With ``resume``, what is complete is kept when the run is cut off, by a kill or by an error that need not come
    again, and the next run of the same plan goes on from there; without, it begins anew.

    ``progress`` counts bytes of the files; while a model is calibrated, the floating-point operations of that.
    """
    again = partial(execute, executor=executor, progress=progress, threads=threads, method=method, overwrite=overwrite)
    if plan.folding is not None:
        from gguflike.convert.folded import folded

        check_targets(plan, overwrite)
        return again(folded(plan, threads, progress), resume=False)
    if plan.target is None:
        raise OutputError("the plan names no target", remedy="plan with the file that is to be written, `out`")
    check_targets(plan, overwrite)
    if plan.budget is not None:
        from gguflike.convert import allocation

        settling = partial(allocation.settling, plan, threads, progress, resume)
        with closing_sources(), made_folder(plan.target.parent), settling() as chosen:
            return again(chosen, resume=resume)
    done = 0

    def advance(count: int, what: str) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, plan.file_bytes, what)

    made = made_of(plan, method) if resume else None
    final = _final_header(plan, lambda: plan, threads, progress)
    writer = Writer(plan.target, plan.layout, overwrite, plan.inputs, made, plan.digests, final)
    with (
        closing_sources(),
        made_folder(plan.target.parent),
        _saying_what_is_kept(writer, len(plan.tensors)),
        writer,
    ):
        prepare((need for tensor in plan.tensors for need in _job(tensor, method, threads).kernels()), progress)
        advance(sum(file.header_bytes for file in plan.files), "header")
        if plan.calibration is not None:
            from gguflike.convert import calibrated

            plan = calibrated.run(plan, writer, threads, advance, progress)
        elif executor is None:
            tensors = sorted(plan.tensors, key=_place)
            with reading_ahead(tensor.source for tensor in tensors if not writer.claims(tensor.name)):
                pipeline.run(_jobs(writer, tensors, method, threads), writer, advance)
        else:
            # Parallel over tensors, so each task stays on one thread unless told otherwise.
            _spread(writer, _jobs(writer, plan.tensors, method, threads or 1), executor, advance)
    return plan


def _final_header(
    planned: ConversionPlan, now: Callable[[], ConversionPlan], threads: int | None, progress: Progress | None
) -> Callable[[str], FilePlan] | None:
    """What makes the header anew when all data are in the file of the path that it is given, where the header says of
    them what is only known then; None where it stays as it was ``planned``. ``now`` gives the plan as it is then."""
    if planned.card is not None:
        from gguflike.convert import carded

        write = partial(execute, progress=progress, threads=threads, resume=False)
        return carded.final(now, planned.card, threads, progress, write)
    if planned.tuning is not None:
        from gguflike.convert import tuned

        return lambda _: tuned.header(planned, now())
    return None


@contextmanager
def _saying_what_is_kept(writer: Writer, tensors: int) -> Iterator[None]:
    """Add to an error inside that the next run goes on from what is written, where it does."""
    try:
        yield
    except (GGUFLikeError, KeyboardInterrupt) as error:
        if writer.kept:
            told = f"{writer.kept} of {tensors} tensors are kept: the same command goes on from there"
            if isinstance(error, GGUFLikeError):
                error.remedy = f"{error.remedy}; {told}" if error.remedy else told
            else:
                error.args = (told,)
        raise


def _jobs(
    writer: Writer, tensors: Iterable[PlannedTensor], method: Method, threads: int | None
) -> Iterator[tuple[str, Job | int]]:
    """What is to be done for each tensor, or its size where it is there already."""
    for tensor in tensors:
        if writer.restore(tensor.name):
            yield tensor.name, tensor.nbytes
        else:
            yield tensor.name, _job(tensor, method, threads)


def _place(tensor: PlannedTensor) -> tuple[str, int]:
    """Where what is read from elsewhere begins, so that it is read in that order; all else stays in the plan's."""
    extents = elsewhere(tensor.source)
    return (extents[0].path, extents[0].offset) if extents else ("", 0)


def _job(tensor: PlannedTensor, method: Method, threads: int | None) -> Job:
    return Job(tensor.source, tensor.format.name, tensor.importance, method, threads)


def _spread(
    writer: Writer,
    jobs: Iterable[tuple[str, Job | int]],
    executor: Executor,
    advance: Callable[[int, str], None],
) -> None:
    pending: set[Future[Receipt]] = set()
    try:
        for name, job in jobs:
            if isinstance(job, int):
                advance(job, name)
                continue
            if len(pending) >= 2 * _workers(executor):
                pending = _collect(writer, pending, advance)
            pending.add(executor.submit(run, job, writer.slot(name)))
        while pending:
            pending = _collect(writer, pending, advance)
    except BaseException:
        # Nobody writes any more when the temporary file is removed; on a cluster somebody may, who finds no file then.
        wait([future for future in pending if not future.cancel()])
        raise


def _workers(executor: Executor) -> int:
    """How many tasks an executor works on at a time: executors of the standard library say so, and dask's knows whom to
    ask, each time anew, since workers come and go. One for each CPU where nothing is known."""
    known = getattr(executor, "_max_workers", None)
    of_each = getattr(getattr(executor, "_client", None), "nthreads", None)
    if known is None and of_each is not None:
        known = sum(of_each().values())
    return known or os.cpu_count() or 1


def _collect(
    writer: Writer, pending: set[Future[Receipt]], advance: Callable[[int, str], None]
) -> set[Future[Receipt]]:
    finished, remaining = wait(pending, return_when=FIRST_COMPLETED)
    for future in finished:
        receipt = future.result()
        writer.accept(receipt)
        advance(receipt.end - receipt.start, receipt.name)
    return remaining
