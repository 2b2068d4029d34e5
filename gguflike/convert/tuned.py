"""End-to-end tuning of what a conversion has rounded, before its file appears (`calibrate.tune`).

The model that is written is trained to say what the float model says, on the calibration text: super-scales and norm
gains and, where there is memory for it, integer scales and codes, on the exact grids of the blocks. What is best on a
held-out text of another kind is what is written. The whole model is in memory in float32, several times.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.amounts import size
from gguflike.calibrate import needs
from gguflike.calibrate.forms import FORMS
from gguflike.calibrate.reached import Mark, lowest, save
from gguflike.calibrate.texts import sequences
from gguflike.calibrate.trained import Moves
from gguflike.container import FilePlan, Writer
from gguflike.container.plan import with_values
from gguflike.convert import workload
from gguflike.convert.calibration import Calibration
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.resume import made_of
from gguflike.convert.tuning import TuningPlan, metadata
from gguflike.convert.workload import cpus
from gguflike.errors import ArgumentError, UnsupportedError, counted
from gguflike.machine import machine_bytes
from gguflike.progress import Progress, calibrating
from gguflike.tensor import QuantizedTensor

Bytes = npt.NDArray[np.uint8]
BITS = 3.5
"""Integers of types with more for each weight stay: they move into wrong places sooner than into better ones."""
SEQUENCE = 256  # tokens of a sequence that is trained on
STEPS, BATCH, EVERY, PATIENCE = 80, 8, 20, 3
RATES: dict[str, Any] = {}  # other than those of `Tuning`
HELD_OUT = 8192  # tokens, at most
_RESULT = "tuned.npz"
_SHARE = 0.8  # of the machine's memory


def with_tuning(plan: ConversionPlan) -> ConversionPlan:
    """A plan that is not laid out yet, with how what it rounds is tuned; errors as of `tuning_of`."""
    tuning = tuning_of(plan)
    return replace(plan, tuning=tuning, metadata={**plan.metadata, **metadata(tuning)})


def tuning_of(plan: ConversionPlan) -> TuningPlan:
    """How the rounded tensors of a plan are tuned. UnsupportedError where that takes more memory than the machine has,
    ArgumentError where nothing can be trained."""
    calibration = plan.calibration
    assert isinstance(calibration, Calibration)
    trained = [tensor for tensor in plan.calibrated if tensor.format.name in FORMS]
    if not trained and not _values(plan):
        raise ArgumentError(
            "nothing that can be trained: no matrix has blocks with scales, and no norm a gain",
            field="effort",
            got=3,
            remedy="`effort=2`",
        )
    coarse = sum(tensor.weights for tensor in trained if tensor.format.bits_per_weight <= BITS)
    graph, longest = calibration.graph, min(SEQUENCE, calibration.sequence)
    weights = [tensor.weights for tensor in trained]
    sizes = {
        moves: needs.training(graph, longest, weights, moved, plan.parameters, cpus())
        for moves, moved in (("codes", coarse), ("scales", 0))
    }
    if not coarse:
        del sizes["codes"]
    fits = [moves for moves, nbytes in sizes.items() if nbytes <= most_bytes()]
    if not fits:
        remedy = "`effort=2` holds one layer at a time; or a machine with more memory"
        raise too_large(sizes["scales"], remedy, field="effort")
    moves: Any = fits[0]
    run, evaluated = (workload.Run(graph, count * (longest,)) for count in (STEPS * BATCH, -(-HELD_OUT // longest)))
    seconds = workload.training(run, evaluated, STEPS // EVERY + 1) / workload.speed()
    held_out = tuple(text.name for text in calibration.held_out)
    return TuningPlan(moves, sizes[moves], seconds, held_out, BITS, STEPS, BATCH, SEQUENCE)


def most_bytes() -> int:
    """Bytes of memory that training may take on this machine."""
    return int(_SHARE * machine_bytes())


def too_large(nbytes: int, remedy: str, *, path: str | None = None, field: str | None = None) -> UnsupportedError:
    """The error for a model whose training takes more."""
    return UnsupportedError(
        "the model is too large to be tuned on this machine: it is in memory in float32, several times",
        expected=f"at most {size(most_bytes())}",
        got=size(nbytes),
        path=path,
        field=field,
        remedy=remedy,
    )


def header(planned: ConversionPlan, done: ConversionPlan) -> FilePlan:
    """The first file of a plan, with what its tuning has come to, which the plan that is ``done`` says."""
    keys = [key for key in planned.metadata if key.startswith("gguflike.tuning.")]
    return with_values(planned.files[0], planned.metadata, {key: done.metadata[key] for key in keys})


def finished(workspace: Path) -> dict[str, Bytes]:
    """The bytes of tensors that an earlier run has tuned to the end, by name: none where there is no such run."""
    try:
        with np.load(workspace / _RESULT) as file:
            return {name: file[name] for name in file.files if name != _RESULT}
    except (OSError, ValueError):
        return {}


def run(plan: ConversionPlan, writer: Writer, threads: int | None, progress: Progress | None) -> ConversionPlan:
    """Tune what ``writer`` has, unless an earlier run has; the plan, which says what was reached."""
    calibration, tuning = plan.calibration, plan.tuning
    assert isinstance(calibration, Calibration)
    assert tuning is not None
    path = writer.workspace / _RESULT
    if not path.exists():
        _train(plan, writer, calibration, tuning.moves, threads, progress)
        for name, data in finished(writer.workspace).items():
            writer.replace(name, data)
    with np.load(path) as file:
        marks = [Mark(*mark) for mark in json.loads(str(file[_RESULT]))]
    before, after = marks[0].held_out, lowest(marks)
    said = f"tuned in {counted(marks[-1].step, 'step')}: divergence on held-out text {before:.5f} -> {after:.5f} nats"
    return replace(plan, notices=(*plan.notices, said), metadata={**plan.metadata, **metadata(tuning, marks)})


def _train(
    plan: ConversionPlan,
    writer: Writer,
    calibration: Calibration,
    moves: Moves,
    threads: int | None,
    progress: Progress | None,
) -> None:
    from gguflike.calibrate.tune import Tuning, tune

    used = {place.name for place in calibration.graph.tensors() if place.tensor.used}
    tensors = {tensor.name: tensor for tensor in plan.tensors if tensor.name in used}
    rows = {name: writer.read(name).reshape(-1, t.format.row_bytes(t.shape[-1])) for name, t in tensors.items()}
    stored = {name: QuantizedTensor(name, t.format, t.shape, rows[name].reshape(-1)) for name, t in tensors.items()}
    forms = {t.name: FORMS[t.format.name] for t in plan.calibrated if t.format.name in FORMS}
    result = tune(
        calibration.graph,
        {name: calibration.model.read(name) for name in tensors},
        {name: tensor.dequantize(threads) for name, tensor in stored.items()},
        {name: (form, form.parse(rows[name])) for name, form in forms.items()},
        _values(plan),
        cut(calibration.sequences, calibration.model.begin, SEQUENCE),
        held_out(calibration),
        writer.workspace / "tuning",
        Tuning(
            moves=moves,
            bits=BITS,
            steps=STEPS,
            batch=BATCH,
            every=EVERY,
            patience=PATIENCE,
            seed=calibration.effort.seed,
            **RATES,
        ),
        length=calibration.sequence,
        key=made_of(plan, "search"),
        threads=threads,
        progress=calibrating(progress),
    )
    made: dict[str, Any] = {name: forms[name].pack(numbers).reshape(-1) for name, numbers in result.numbers.items()}
    made |= {name: np.ascontiguousarray(value).reshape(-1).view(np.uint8) for name, value in result.values.items()}
    save(writer.workspace / _RESULT, **{**made, _RESULT: json.dumps(result.marks)})


def held_out(calibration: Calibration) -> list[list[int]]:
    """The text that tuning must not make worse, in sequences as they are trained on."""
    model = calibration.model
    return sequences(calibration.held_out, model.encode, min(SEQUENCE, calibration.sequence), model.begin, HELD_OUT)


def cut(all_: Sequence[Sequence[int]], begin: Sequence[int], length: int) -> list[list[int]]:
    """Sequences of at most ``length`` tokens, each beginning with the ids ``begin`` as the longer ones did."""
    step, found = length - len(begin), []
    for each in all_:
        ids = list(each[len(begin) :])
        found += [[*begin, *ids[at : at + step]] for at in range(0, len(ids), step)]
    return found


def _values(plan: ConversionPlan) -> list[str]:
    """Norm gains, and biases that the file has, which are float32."""
    assert plan.calibration is not None
    used = {place.name for place in plan.calibration.graph.tensors() if place.tensor.used}
    return [
        tensor.name
        for tensor in plan.tensors
        if tensor.name in used
        and tensor.name.endswith(("norm.weight", ".bias"))
        and tensor.format.is_float
        and tensor.format.block_bytes == 4
    ]
