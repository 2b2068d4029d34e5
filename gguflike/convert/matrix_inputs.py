"""What a model's matrices multiply when it reads text: its importance matrix, its Hessians."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate import files as disk
from gguflike.calibrate import needs, store
from gguflike.calibrate.stream import SUMS, stream
from gguflike.calibrate.sums import Collecting, Hessians, Importance, Importances, Stacks, Together
from gguflike.calibrate.texts import Text, sequences
from gguflike.container import check_free, check_target
from gguflike.container.claimed import claimed, emptied
from gguflike.container.publish import check_folder
from gguflike.container.writer import may_go_on
from gguflike.convert import imatrix as imatrices
from gguflike.convert import workload
from gguflike.convert.calibration import longest
from gguflike.convert.effort import Chat, files_of
from gguflike.convert.floats import FloatModel
from gguflike.convert.from_checkpoint import AUTO, plan_conversion
from gguflike.convert.given_hessians import About
from gguflike.convert.imatrix import Entry, Imatrix
from gguflike.convert.mixes import COPY
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.quantize import plan_quantization
from gguflike.convert.resume import made_of
from gguflike.convert.sources import closing_sources
from gguflike.convert.stages import INPUTS, Stage, document, lines, stage_of
from gguflike.errors import ArgumentError, OutputError, check_integer, counted
from gguflike.kernels.engine.host import thread_count
from gguflike.progress import Progress

StrPath = str | os.PathLike[str]
CONTEXT = 512
"""Tokens of a sequence, as many as a chunk of llama-imatrix has."""


@dataclass(frozen=True)
class Multiplied:
    """What was found: ``sequences`` of ``tokens`` tokens in all, of the texts ``datasets``. ``matrices``: of so many
    tensors the inputs are known. ``unreached`` says of stacks of experts how many of them no token reached."""

    source: str
    target: Path | None
    hessians: Path | None
    datasets: tuple[str, ...]
    sequences: int
    tokens: int
    matrices: int
    unreached: dict[str, int]


@dataclass(frozen=True)
class CalibrationPlan:
    """What `carry_out` does: run ``sequences`` (token ids) of the ``texts`` through the ``model`` of the plan
    ``source``, each of at most ``length`` tokens, for an importance matrix at ``target``, with the sums ``merged`` into
    it, and Gram matrices in ``hessians``. Hidden states are in ``folder`` meanwhile. ``speed``: operations in a second.
    """

    source: ConversionPlan = field(repr=False)
    model: FloatModel = field(repr=False)
    texts: tuple[Text, ...] = field(repr=False)
    sequences: tuple[tuple[int, ...], ...] = field(repr=False)
    length: int
    target: Path | None
    hessians: Path | None
    folder: Path
    merged: tuple[Imatrix, ...] = field(repr=False)
    speed: float = field(compare=False)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def last(self) -> Path:
        """What is written in the end."""
        return self.target if self.target is not None else self.hessians or Path()

    @property
    def collecting(self) -> Collecting:
        return Importances() if self.hessians is None else Together((Importances(), Hessians()))

    @property
    def states(self) -> int:
        """Bytes of the disk in ``folder``."""
        return needs.disk(self.model.graph, self.tokens, self.collecting, False)

    @property
    def disk(self) -> int:
        """Bytes of the disk until the end."""
        kept = 0 if self.hessians is None else sum(needs.kept(self.model.graph).values())
        return self.states + kept

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The one thing that is done: inputs are summed up."""
        run = workload.Run(self.model.graph, tuple(map(len, self.sequences)))
        count = workload.running(run) + (0.0 if self.hessians is None else workload.summing(run))
        threads, collecting = thread_count(None), self.collecting
        memory = needs.memory(self.model.graph, max(run.lengths), collecting, False, False, threads, SUMS)
        return (stage_of(INPUTS, count, self.speed, needs.BASE + memory),)

    def __str__(self) -> str:
        names = ", ".join(text.name for text in self.texts)
        length = counted(len(self.sequences), "sequence")
        said = [
            f"{self.source.source} -> {', '.join(str(each) for each in (self.target, self.hessians) if each)}",
            f"{counted(self.tokens, 'token')} of {names}, in {length} of up to {self.length}",
            *lines(self.stages, self.disk),
        ]
        if self.merged:
            said.append(f"merged: {', '.join(str(path) for each in self.merged for path in each.paths)}")
        return "\n".join([*said, *(f"notice: {notice}" for notice in self.source.notices)])

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "source": self.source.source,
            "importance": None if self.target is None else str(self.target),
            "hessians": None if self.hessians is None else str(self.hessians),
            "texts": [text.name for text in self.texts],
            "tokens": self.tokens,
            "sequences": len(self.sequences),
            "longest_sequence": self.length,
            "notices": list(self.source.notices),
            **document(self.stages, self.disk),
        }


def check_targets(out: StrPath | None, hessians: StrPath | None, overwrite: bool, place: StrPath | None = None) -> None:
    """OutputError where what a calibration writes is there already, unless ``overwrite``, or cannot be there, or its
    workspace in ``place`` cannot."""
    for target in [Path(each) for each in (out, None if hessians is None else Path(hessians) / store.INDEX) if each]:
        check_free(target, overwrite)
        check_folder(target)
    if place is not None:
        check_folder(Path(place) / "workspace")


def plan_calibration(
    src: StrPath,
    out: StrPath | None = None,
    *,
    calibration: Iterable[StrPath] = (),
    merge: Iterable[StrPath] = (),
    hessians: StrPath | None = None,
    context: int = CONTEXT,
    tokens: int | None = None,
    revision: str | None = None,
    workspace: StrPath | None = None,
    progress: Progress | None = None,
    chat: Chat | None = None,
    gguf: bool = False,
) -> CalibrationPlan:
    """What `carry_out` is to do. Nothing is run or written; texts are read.

    ``src`` is a checkpoint folder or Hub id, or, where ``gguf``, the path of a GGUF file; ``chat`` renders
    conversations of the texts. The other arguments are those of `gguflike.calibrate`, errors as there, but
    of the target and of the disks.
    """
    check_integer("context", context, 2)
    if tokens is not None:
        check_integer("tokens", tokens, 2)
    if out is None and hessians is None:
        raise ArgumentError("nothing is asked for", field="out", remedy="give `out`, or `hessians`, or both")
    files, merged = files_of("calibration", calibration), files_of("merge", merge)
    if out is None and merged:
        what = "sums are added to those of an importance matrix, and none is to be written"
        raise ArgumentError(what, field="merge", got=merged[0], remedy="give `out`, too")
    if gguf and revision is not None:
        remedy = "name it in the id of a file of the Hub: org/name@revision:TYPE"
        raise ArgumentError(
            "a GGUF file has no revisions", path=os.fspath(src), field="revision", got=revision, remedy=remedy
        )
    others = [imatrices.read(each) for each in merged]
    plan = plan_quantization(src, None, COPY.name) if gguf else _plan(src, revision, progress)
    if out is not None:
        check_target(out, [*plan.inputs, *files, *(path for each in others for path in each.paths)])
    if hessians is not None and os.path.realpath(hessians) == os.path.realpath(src):
        raise OutputError("the target is also the source", path=os.fspath(hessians), remedy="choose another folder")
    model = plan.float_model()
    imatrices.merge([_nothing(model), *others], "")  # what does not fit is known before anything takes time
    texts = model.texts(files, chat)
    length = longest(model, context)
    last = Path(out if out is not None else hessians or "")
    return CalibrationPlan(
        plan,
        model,
        tuple(texts),
        tuple(map(tuple, sequences(texts, model.encode, length, model.begin, tokens))),
        length,
        None if out is None else Path(out),
        None if hessians is None else Path(hessians),
        Path(workspace if workspace is not None else last.parent) / f".{last.name}.calibration",
        tuple(others),
        workload.speed(),
    )


def carry_out(planned: CalibrationPlan, threads: int | None, progress: Progress | None, overwrite: bool) -> Multiplied:
    """Run texts through the float model, and write what its matrices multiply.

    OutputError where the disks have no room for all that, which is known before the model runs, and where another
    process calibrates for the same target, or into the same folder.
    """
    plan, model, place, folder = planned.source, planned.model, planned.hessians, planned.folder
    texts, ids, length = planned.texts, [list(each) for each in planned.sequences], planned.length
    key = made_of(plan, repr((ids, None if place is None else str(place.resolve()))))
    made = Imatrix("", (), {}, tuple(text.name for text in texts), len(ids), length)
    with ExitStack() as stack:
        for each in (folder, place):
            if each is not None:
                stack.enter_context(claimed(each, f"calibrating for {planned.last}"))
        if not (folder / key[:16]).exists():  # nothing is there, or what was made of other files or options
            emptied(folder)
        missing = {folder: planned.states - disk.taken(folder.rglob("*"))}
        if place is not None:
            missing[place] = store.missing(place, needs.kept(model.graph))
        disk.check_rooms(missing)
        stack.push(partial(_let_go, folder))
        found = _Found(folder / key[:16], place, model.sha256)
        if place is not None:
            store.begin(place)
        stack.enter_context(closing_sources())
        stream(
            model.graph,
            model.read,
            ids,
            None,
            folder,
            found=found.take,
            collecting=planned.collecting,
            rows=model.rows,
            length=length,
            key=key,
            threads=threads,
            progress=progress,
        )
        entries, groups = found.all()
        if place is not None:
            about = About.of(plan.source, texts, ids, length, model.rest())
            store.finish(place, about._asdict(), groups)
        if planned.target is not None:
            sums = imatrices.merge([replace(made, entries=entries), *planned.merged], planned.target.name)
            imatrices.write(planned.target, sums, overwrite, plan.inputs)
        shutil.rmtree(folder)
    return Multiplied(
        plan.source,
        planned.target,
        place,
        made.datasets,
        len(ids),
        planned.tokens,
        len(entries),
        {name: missed for name, entry in entries.items() if (missed := int((entry.counts == 0).sum()))},
    )


def _let_go(folder: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Remove what is kept to go on from, where the same command would come to the same error."""
    if kind is not None and not may_go_on(kind):
        emptied(folder)
        with suppress(OSError):
            folder.rmdir()


def _plan(src: StrPath, revision: str | None, progress: Progress | None) -> ConversionPlan:
    return plan_conversion(src, None, AUTO, revision=revision, progress=progress, tokenizer_proof="warn")


def _nothing(model: FloatModel) -> Imatrix:
    """The sums of no text."""
    shapes = {each.name: each.tensor.shape for each in model.graph.tensors() if each.tensor.is_matrix}
    sums = {name: np.zeros((prod(shape[:-2]), shape[-1])) for name, shape in shapes.items()}
    return Imatrix("", (), {name: Entry(each, np.zeros(len(each))) for name, each in sums.items()}, (), 0, 1)


class _Found:
    """What was found of each group of matrices, in a folder: a run that goes on finds it there."""

    def __init__(self, folder: Path, hessians: Path | None, sha256: Callable[[str], str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.hessians, self._sha256 = folder, hessians, sha256

    def take(self, names: Sequence[str], found: Any) -> None:
        digests: list[str] = []
        if self.hessians is not None:
            found, statistics = found.parts if isinstance(found, Stacks) else found
            store.save(self.hessians, names, statistics)
            digests = [self._sha256(name) for name in names]
        stacked = not isinstance(found, Importance)
        each: Sequence[Importance] = found if stacked else [found]
        sums, counts = np.stack([one.sums for one in each]), np.array([one.tokens for one in each])
        temporary = self.folder / f".{names[0]}.npz"
        about: dict[str, Any] = {"names": np.array(names), "sha256": np.array(digests, "U64"), "stacked": stacked}
        np.savez(temporary, sums=sums, counts=counts, **about)
        temporary.replace(self.folder / f"{names[0]}.npz")

    def all(self) -> tuple[dict[str, Entry], list[store.Group]]:
        """Of each tensor its sums, and the groups."""
        entries: dict[str, Entry] = {}
        groups: list[store.Group] = []
        for path in sorted(self.folder.glob("[!.]*.npz")):
            with np.load(path) as said:
                names, digests = (tuple(map(str, said[each])) for each in ("names", "sha256"))
                sums, counts, stacked = said["sums"], said["counts"], bool(said["stacked"])
                groups.append(store.Group(names, sums.shape[1], tuple(map(int, counts)), stacked, digests))
                entries |= dict.fromkeys(names, Entry(sums, counts.astype(np.float64)))
        return entries, groups
