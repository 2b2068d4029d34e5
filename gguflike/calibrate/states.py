"""What a backward pass keeps on disk: what each block was given, for all sequences, and the gradients by it.

No step of the pass writes where it reads. Gradients by what block i was given stand where there was what block i + 1
was given, which no step needs any more: so they take no room of their own, and whenever a pass is cut off, all that the
step which it was in began with is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate import files
from gguflike.calibrate.steps import Steps
from gguflike.families.parts import Graph
from gguflike.kernels.engine.memory import give_back
from gguflike.reference.gradient.graph import State

Array = npt.NDArray[Any]


class States:
    """A `State` for each block of ``graph``, for what the last one gives, and gradients by them, of sequences of these
    ``lengths``, below a ``folder``.

    ``steps`` tell what an earlier pass has left there, which is removed where none of them is done; with None there is
    nothing to go on with. OutputError where the disk has no room.
    """

    def __init__(self, folder: Path, graph: Graph, lengths: Sequence[int], steps: Steps | None = None) -> None:
        self._folder = folder / "backward"
        if steps is None or not steps.done:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.steps = Steps(self._folder, "") if steps is None else steps
        self._read = sorted(graph.shared_layers)
        self._kinds = [type(part) for part in graph.inputs]
        self._starts, self._last = np.cumsum([0, *lengths]), len(graph.blocks)
        paths, shape = [*map(self._stream, range(self._last + 2))], (int(self._starts[-1]), graph.embedding.n_embd)
        files.check_room(folder, len(paths) * shape[0] * shape[1] * 4, files.taken(paths))
        self._streams = [files.kept(path, shape) for path in paths]

    def save(self, block: int, sequence: int, state: State) -> None:
        """Keep what a block is given: beside the stream, what the one before it has added."""
        named = {f"inputs{number}": value for number, value in enumerate(state.inputs.values())} if block == 0 else {}
        if block - 1 in self._read:
            named["keys"], named["values"] = state.cached[block - 1]
        if state.chosen is not None:
            named["chosen"] = state.chosen
        self._write(block, self._beside(block), sequence, state.x, named)

    def load(self, block: int, sequence: int) -> State:
        """What a block is given."""
        cached = {}
        for layer in (each for each in self._read if each < block):
            place = self._beside(layer + 1)
            cached[layer] = self._load(place, sequence, "keys"), self._load(place, sequence, "values")
        inputs = {kind: self._load(self._beside(0), sequence, f"inputs{i}") for i, kind in enumerate(self._kinds)}
        place = self._beside(block)
        chosen = self._load(place, sequence, "chosen") if _path(place, sequence, "chosen").exists() else None
        return State(self._residual(block, sequence), cached, inputs, chosen)

    def save_gradient(self, block: int, sequence: int, gradient: State) -> None:
        """Keep the gradient by what a block was given, or by what the last one gave: by its stream alone."""
        named = {f"inputs{number}": value for number, value in enumerate(gradient.inputs.values())}
        for layer, (keys, values) in gradient.cached.items():
            named |= {f"keys{layer}": keys, f"values{layer}": values}
        self._write(block + 1, self._gradients(block), sequence, gradient.x, named)

    def load_gradient(self, block: int, sequence: int) -> State:
        """The gradient by what a block was given, or by what the last one gave."""
        x, place = self._residual(block + 1, sequence), self._gradients(block)
        if block == self._last:
            return State(x, {}, {})
        cached = {
            layer: (self._load(place, sequence, f"keys{layer}"), self._load(place, sequence, f"values{layer}"))
            for layer in self._read
            if layer < block
        }
        inputs = {kind: self._load(place, sequence, f"inputs{i}") for i, kind in enumerate(self._kinds)}
        return State(x, cached, inputs)

    def finish(self, done: int, block: int) -> None:
        """Note that so many steps are done, of which the last has saved what a block is given."""
        self._leave(self._stream(block), self._beside(block))
        self.steps.finish(done)

    def finish_gradient(self, done: int, block: int) -> None:
        """Note that so many steps are done, of which the last has saved gradients by what a block was given: nothing
        else of it, and of those behind it, is read any more."""
        self._leave(self._stream(block + 1), self._gradients(block))
        over = self._stream(block), self._stream(block + 2), self._beside(block), self._gradients(block + 1)
        for path in over:
            self.steps.forget(path)
        self.steps.finish(done)
        for path in over[2:]:
            shutil.rmtree(path, ignore_errors=True)

    def keep(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays for a later step."""
        path = self._folder / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]  # which has other arguments, too
        self.steps.leave(path)

    def kept(self, name: str) -> dict[str, Array]:
        """Arrays that a step before has kept."""
        with np.load(self._folder / f"{name}.npz") as file:
            return {each: file[each] for each in file.files}

    def scratch(self, name: str, shape: tuple[int, ...]) -> Array:
        """A file of zeros, float32, that no other step reads."""
        return files.zeros(self._folder / f"{name}.f32", shape)

    def close(self, done: int) -> None:
        """Note that so many steps are done, behind which there is none, and delete the files."""
        self.steps.forget(self._folder)
        self.steps.finish(done)
        self._streams = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leave(self, *paths: Path) -> None:
        for path in paths:
            if path.exists():
                self.steps.leave(path)

    def _write(self, number: int, folder: Path, sequence: int, x: Array, named: Mapping[str, Array]) -> None:
        start, stop = self._starts[sequence : sequence + 2]
        stream = self._streams[number][start:stop]
        stream[:] = x
        give_back(stream)  # the memory, which the system writes
        if named:
            folder.mkdir(exist_ok=True)
        for name, value in named.items():
            np.save(_path(folder, sequence, name), value)

    def _residual(self, number: int, sequence: int) -> Array:
        start, stop = self._starts[sequence : sequence + 2]
        stream = self._streams[number][start:stop]
        x = np.array(stream)
        give_back(stream)
        return x

    def _load(self, folder: Path, sequence: int, name: str) -> Array:
        found: Array = np.load(_path(folder, sequence, name))
        return found

    def _stream(self, number: int) -> Path:
        return self._folder / f"stream{number}.f32"

    def _beside(self, block: int) -> Path:
        return self._folder / f"beside{block}"

    def _gradients(self, block: int) -> Path:
        return self._folder / f"gradients{block}"


def _path(folder: Path, sequence: int, name: str) -> Path:
    return folder / f"{sequence}-{name}.npy"
