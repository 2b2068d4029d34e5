"""Quantization-aware training of a whole file: a checkpoint to a GGUF file whose blocks were trained to say what the
checkpoint's floats say."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike import container
from gguflike.calibrate import needs
from gguflike.calibrate.files import check_rooms
from gguflike.calibrate.forms import FORMS, Form, Stored
from gguflike.calibrate.reached import lowest
from gguflike.calibrate.trained import MOVES, Moves
from gguflike.calibrate.tune import Mark, Tuned, Tuning
from gguflike.calibrate.tune import tune as train
from gguflike.container import GGUFFile, Typed, ValueType
from gguflike.container.publish import check_folder, made_folder
from gguflike.convert import workload
from gguflike.convert.calibration import longest
from gguflike.convert.facts import untyped
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.quantize import plan_quantization
from gguflike.convert.stages import TUNING, Stage, document, lines
from gguflike.convert.tuned import most_bytes, too_large
from gguflike.errors import ArgumentError, UnsupportedError, check_choice, check_integer, check_threads, counted
from gguflike.evaluate import models, texts
from gguflike.families import config as configs
from gguflike.families import registry
from gguflike.families.parts import Graph, Head
from gguflike.locate import locate
from gguflike.progress import Progress
from gguflike.runner.tokenizer import Tokenizer
from gguflike.tensor import QuantizedTensor

StrPath = str | os.PathLike[str]
Texts = Mapping[str, str] | list[StrPath]
Floats = npt.NDArray[np.float32]
TYPE = "Q4_K_M"
CONTEXT = 256
"""Tokens of a sequence."""
HELD_OUT = 16_384
"""Tokens of held-out text that are used at most."""
_DROPPED = ("split.", "gguflike.digest.", "gguflike.quality.", "gguflike.activations.")


class TunedFile(NamedTuple):
    """What `tune` wrote: the file, and the divergences on the way."""

    path: str
    marks: list[Mark]

    @property
    def before(self) -> float:
        """The mean divergence on the held-out text before tuning, in nats."""
        return self.marks[0].held_out

    @property
    def after(self) -> float:
        """That of what was written."""
        return lowest(self.marks)


@dataclass(frozen=True)
class TunePlan:
    """What `tune` will do: ``moves`` of ``trained`` weights in matrices of those types, in up to ``steps`` steps of
    ``batch`` sequences of ``context`` tokens, of which the texts ``text`` have so many ``sequences``. ``memory`` and
    ``disk`` are bytes at most, about; ``seconds`` if nothing else runs."""

    source: str
    target: str
    types: tuple[str, ...]
    moves: Moves
    trained: int
    steps: int
    batch: int
    context: int
    text: tuple[str, ...]
    sequences: int
    held_out: tuple[str, ...]
    seconds: float
    memory: int
    disk: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(TUNING, self.seconds, self.memory),)

    def __str__(self) -> str:
        names = ", ".join(self.text)
        return "\n".join(
            [
                f"{self.source} -> {self.target}",
                f"{self.moves} of {self.trained:,} weights in {', '.join(self.types)}, and norm gains, in up to "
                f"{counted(self.steps, 'step')} of {self.batch} of {self.sequences} sequences of {self.context} tokens "
                f"of {names}, while that helps on {', '.join(self.held_out)}",
                *lines(self.stages, self.disk),
            ]
        )

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        said = {key: value for key, value in asdict(self).items() if key not in ("seconds", "memory", "disk")}
        return {**said, **document(self.stages, self.disk)}


def plan_tuning(
    src: StrPath,
    out: StrPath,
    type: str | None = None,
    *,
    text: Mapping[str, str] | Iterable[StrPath],
    held_out: Mapping[str, str] | Iterable[StrPath],
    start: StrPath | None = None,
    moves: Moves = "codes",
    steps: int = 160,
    context: int = CONTEXT,
    tokens: int = 200_000,
    imatrix: StrPath | None = None,
    progress: Progress | None = None,
) -> TunePlan:
    """What `tune` with these arguments would do: in how many seconds, with how much memory and disk. No tensor is read,
    nothing is written; errors as there, but of a target that exists and of disks."""
    check_choice("moves", moves, MOVES)
    options = Tuning(moves=moves, steps=check_integer("steps", steps, 1))
    context, tokens = check_integer("context", context, 2), check_integer("tokens", tokens, 2)
    _check_start(start, type=type, imatrix=imatrix)
    text, held_out = _listed(text), _listed(held_out)
    named, kept = _texts(text, held_out)
    files = _files(src, text, held_out, start, imatrix)
    container.check_target(out, files)
    if models.is_checkpoint(src):
        plan = plan_conversion(src, None, type or TYPE, imatrix=imatrix, tokenizer_proof="warn", progress=progress)
    else:
        plan = plan_quantization(locate(src, progress), None, type or TYPE, imatrix=imatrix)
    container.check_target(out, [*plan.inputs, *files])
    model = plan.float_model()
    _check_logits(model.graph, plan.source)
    formats = {tensor.name: tensor.format for tensor in plan.tensors}
    if start is not None:
        formats = _formats(start, plan)
    sizes = {tensor.name: tensor.weights for tensor in plan.tensors}
    names = _trainable(model.graph, {name: fmt.name for name, fmt in formats.items()})
    if not names:
        raise ArgumentError(
            "nothing to train: no matrix has blocks with scales",
            field="type" if start is None else "start",
            got=plan.recipe.name if start is None else os.fspath(start),
            remedy="choose a type such as Q4_K_M, whose blocks divide the rows",
        )
    weights = [sizes[name] for name in names]
    coarse = sum(sizes[name] for name in names if options.of(formats[name]) == "codes")
    context = longest(model, context)
    memory = needs.training(model.graph, context, weights, coarse, plan.parameters, workload.cpus())
    if memory > most_bytes():
        raise too_large(memory, '`moves="scales"` takes least; or a machine with more memory', path=plan.source)
    said = {**plan.metadata, **(plan.tokenizer.metadata if plan.tokenizer else {})}
    tokenizer = Tokenizer({key: untyped(value) for key, value in said.items()})
    read, other = (
        _sequences(field, each, tokenizer, context, most)
        for field, each, most in (("text", named, tokens), ("held_out", kept, HELD_OUT))
    )
    run, evaluated = (workload.Run(model.graph, count * (context,)) for count in (steps * options.batch, len(other)))
    top = min(options.top, model.graph.embedding.n_vocab)
    told = (min(len(read), steps * options.batch) + len(other)) * context * top * 2 * np.dtype(np.float32).itemsize
    floats = plan.parameters * np.dtype(np.float32).itemsize if models.is_checkpoint(src) else 0
    begin = 0 if start is not None else plan.file_bytes
    return TunePlan(
        plan.source,
        os.fspath(out),
        tuple(dict.fromkeys(formats[name].name for name in names)),
        moves,
        sum(weights),
        steps,
        options.batch,
        context,
        tuple(named),
        len(read),
        tuple(kept),
        workload.training(run, evaluated, steps // options.every + 1) / workload.speed(),
        needs.BASE + memory,
        told + floats + begin,
    )


def tune(
    src: StrPath,
    out: StrPath,
    type: str | None = None,
    *,
    text: Mapping[str, str] | Iterable[StrPath],
    held_out: Mapping[str, str] | Iterable[StrPath],
    start: StrPath | None = None,
    moves: Moves = "codes",
    steps: int = 160,
    context: int = CONTEXT,
    tokens: int = 200_000,
    imatrix: StrPath | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TunedFile:
    """Write ``src`` as ``type`` (default: Q4_K_M) to ``out``, trained on ``text`` to diverge less from ``src``.

    ``src`` is a checkpoint (folder or Hub id) or a GGUF file of floats. Training begins with what `quantize_file` makes
    of it (with ``imatrix``), or with the GGUF file ``start``, whose types are kept. It moves super-scales, norm gains
    and biases that the file has; with ``moves`` "integers" also integer scales and minima of blocks, with "codes" their
    codes, too, points of codebooks among them. Gradients go straight through rounding, and each step computes with
    exactly what the file would decode to.

    ``text`` and ``held_out`` are text files, or texts by name; of each ``text`` up to its share of ``tokens`` are used,
    in sequences of ``context`` (fewer, where the model was trained with fewer). ``held_out`` is other text, best of
    another kind: what is best on it (at most 16,384 tokens) is what is written, so that the result is never worse there
    than what training began with. ``steps`` of eight sequences each. The whole model is in memory in float32, several
    times. ``progress`` is told of steps.

    ArgumentError where there is nothing to train, or no text to train on, UnsupportedError for a model without logits,
    or one that is too large; errors as of `quantize_file` and `convert`. A folder that is missing is made; what can be
    known to be wrong is an error before anything is computed.
    """
    check_threads(threads)
    text, held_out = _listed(text), _listed(held_out)
    container.check_target(out, _files(src, text, held_out, start, imatrix))
    container.check_free(out, overwrite)
    check_folder(out)
    plan = plan_tuning(
        src,
        out,
        type,
        text=text,
        held_out=held_out,
        start=start,
        moves=moves,
        steps=steps,
        context=context,
        tokens=tokens,
        imatrix=imatrix,
        progress=progress,
    )
    from gguflike.convert import quantize_file

    with ExitStack() as stack:
        stack.enter_context(made_folder(Path(out).parent))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gguflike-")))
        check_rooms({folder: plan.disk})
        floats = stack.enter_context(models.float_file(src, threads, progress))
        begin = start if start is not None else folder / "start.gguf"
        if start is None:
            quantize_file(floats, begin, type or TYPE, imatrix=imatrix, threads=threads, progress=progress)
        before = stack.enter_context(container.open(begin))
        check_rooms({Path(out).parent: before.file_bytes})
        graph = _graph(before)
        student = {name: before.load(name).dequantize(threads) for name in before.infos}
        with container.open(floats) as file:
            teacher = {name: file.load(name).dequantize(threads) for name in file.infos}
        tokenizer = Tokenizer(before.metadata)
        tuned = train(
            graph,
            teacher,
            student,
            _matrices(graph, before),
            _values(graph, before),
            _sequences("text", text, tokenizer, plan.context, tokens),
            _sequences("held_out", held_out, tokenizer, plan.context, HELD_OUT),
            folder,
            Tuning(moves=moves, steps=steps),
            threads=threads,
            progress=progress,
        )
        result = TunedFile(os.fspath(out), tuned.marks)
        _write(out, before, tuned, result, moves, overwrite, [src])
    return result


def _check_start(start: StrPath | None, **others: Any) -> None:
    """ArgumentError for what says how the file is made that training begins with, where that is there."""
    for name, value in others.items():
        if start is not None and value is not None:
            raise ArgumentError(
                "the file to begin with is made already", field=name, got=value, remedy="leave out either it or `start`"
            )


def _files(src: StrPath, text: Texts, held_out: Texts, start: StrPath | None, imatrix: StrPath | None) -> list[StrPath]:
    """What the arguments name that is read."""
    listed = [path for given in (text, held_out) if not isinstance(given, Mapping) for path in given]
    return [src, *listed, *(each for each in (start, imatrix) if each is not None)]


def _texts(text: Texts, held_out: Texts) -> tuple[dict[str, str], dict[str, str]]:
    """What is trained on and what is held out, by name. ArgumentError where a text is both."""
    named, kept = texts.named(text, "text"), texts.named(held_out, "held_out")
    for name, each in kept.items():
        if each in named.values():
            raise ArgumentError(
                "trained on, too: what is best on it need not be on any other text",
                field="held_out",
                got=name,
                remedy="hold out other text, best of another kind",
            )
    return named, kept


def _graph(file: GGUFFile) -> Graph:
    assert file.architecture is not None, "a file that was made of a checkpoint has one"
    family = registry.for_gguf(file.architecture).of_file(file.metadata, file.infos)
    graph: Graph = family.graph(configs.from_gguf(family.config, family.name, file.metadata, file.infos.keys()))
    _check_logits(graph, file.path)
    return graph


def _check_logits(graph: Graph, path: str) -> None:
    if not isinstance(graph.head, Head):
        raise UnsupportedError("a model without logits has nothing to be tuned by", path=path, got="embeddings")


def _formats(start: StrPath, plan: ConversionPlan) -> dict[str, Any]:
    """The types in the file that training begins with. ArgumentError unless its tensors are those of the plan."""
    with container.open(start) as file:
        formats = {name: info.format for name, info in file.infos.items()}
        shapes = {name: tuple(info.shape) for name, info in file.infos.items()}
    wanted = {tensor.name: tuple(tensor.shape) for tensor in plan.tensors}
    if shapes != wanted:
        wrong = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ArgumentError(
            "not a quantization of the model",
            path=os.fspath(start),
            field="start",
            expected=f"the tensors of {plan.source}",
            got=", ".join(wrong[:3]),
        )
    return formats


def _trainable(graph: Graph, types: Mapping[str, str]) -> list[str]:
    """The matrices that tokens are multiplied with, of types whose numbers can be trained. ``types``: by tensor."""
    return [place.name for place in graph.tensors() if place.tensor.is_matrix and types.get(place.name) in FORMS]


def _matrices(graph: Graph, file: GGUFFile) -> dict[str, tuple[Form, Stored]]:
    """Those of a file, and their numbers."""
    found = {}
    for name in _trainable(graph, {name: info.format.name for name, info in file.infos.items()}):
        form, rows = FORMS[file.infos[name].format.name], file.load(name).rows
        found[name] = form, form.parse(rows.reshape(-1, rows.shape[-1]))
    return found


def _values(graph: Graph, file: GGUFFile) -> list[str]:
    """Norm gains, and biases, which are float32."""
    names = (name for name, _, tensor in graph.tensors() if tensor.used and name.endswith(("norm.weight", ".bias")))
    formats = ((name, file.infos[name].format) for name in names)
    return [name for name, format in formats if format.is_float and format.block_bytes == 4]


def _listed(given: Mapping[str, str] | Iterable[StrPath]) -> Texts:
    if isinstance(given, Mapping):
        return given
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _sequences(
    field: str, given: Mapping[str, str] | Iterable[StrPath], tokenizer: Tokenizer, context: int, tokens: int
) -> list[Sequence[int]]:
    """Texts as sequences of ``context`` tokens: of each, its share of ``tokens``, or all there are. ArgumentError where
    there is no whole sequence."""
    named = texts.named(given, field)
    share = max(tokens // len(named), context)
    found: list[Sequence[int]] = []
    for text in named.values():
        ids = tokenizer.first(text, share)
        found += [ids[i : i + context] for i in range(0, len(ids) - context + 1, context)]
    if not found:
        raise ArgumentError(
            "the text is too short", field=field, expected=f"at least {context} tokens", got=list(named)
        )
    return found


def _write(
    out: StrPath, before: GGUFFile, tuned: Tuned, result: TunedFile, moves: Moves, overwrite: bool, sources: list[Any]
) -> None:
    """The file that training began with, with other numbers in the blocks."""
    tensors = []
    for name in before.infos:
        stored = before.load(name)
        data = stored.data
        if name in tuned.numbers:
            data = FORMS[stored.format.name].pack(tuned.numbers[name]).reshape(-1)
        elif name in tuned.values:
            data = np.ascontiguousarray(tuned.values[name]).reshape(-1).view(np.uint8)
        tensors.append(QuantizedTensor(name, stored.format, stored.shape, data, stored.original_shape))
    metadata: dict[str, Any] = {
        key: before.metadata.typed(key) for key in before.metadata if not key.startswith(_DROPPED)
    }
    metadata |= {
        "gguflike.tuning.moves": moves,
        "gguflike.tuning.steps": Typed(result.marks[-1].step, ValueType.UINT32),
        "gguflike.tuning.divergence": Typed([result.before, result.after], ValueType.ARRAY, ValueType.FLOAT64),
    }
    container.write(out, metadata, tensors, overwrite=overwrite, sources=sources)
