"""What a walk through a model keeps on disk: hidden states of all sequences, contexts, how many layers are done.

The states before layer i are in file i % 2 of each stream, and layer i works on a copy in the other: whenever a walk is
interrupted, the states before the layer that it was in are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate import files
from gguflike.calibrate.steps import Steps
from gguflike.families.parts import Graph
from gguflike.kernels.engine.memory import give_back
from gguflike.reference.formulas import Array, Context

FLOAT, QUANTIZED = "float", "quantized"


class Workspace:
    """A folder with the states of ``streams`` of sequences of these ``lengths``, each state of ``width`` float32.

    ``key`` says all that they depend on: ``done`` layers are those of an earlier walk with the same, whose states are
    there whole. OutputError where the disk has no room for ``needed`` bytes there.
    """

    def __init__(
        self, folder: Path, streams: Sequence[str], lengths: Sequence[int], width: int, key: str, needed: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.streams, self.width = folder, tuple(streams), width
        self._starts = np.cumsum([0, *lengths])
        self._check_space(needed)
        self._steps = Steps(folder, key)
        self._files: dict[tuple[str, int], np.memmap[Any, Any]] = {}
        self._inputs: list[np.memmap[Any, Any]] = []  # the one that there is

    @property
    def done(self) -> int:
        """How many layers are done."""
        return self._steps.done

    def finish(self, layers: int) -> None:
        """Note that so many layers are done, of which the first are the embeddings."""
        for stream in self.streams:
            self._steps.forget(self._path(stream, layers))
            self._steps.leave(self._path(stream, layers - 1))
        self._steps.finish(layers)

    def begin(self, layer: int) -> None:
        """Copy the states before a layer to where it works on them."""
        for stream in self.streams:
            self._file(stream, layer + 1)[:] = self._file(stream, layer)

    def states(self, stream: str, layer: int, sequence: int) -> Array:
        """The hidden states (tokens, width) of a sequence as a layer works on them, and in the end leaves them."""
        return self._file(stream, layer + 1)[self.span(sequence)]

    def span(self, sequence: int) -> slice:
        """Where a sequence stands among the tokens of all."""
        start, stop = self._starts[sequence : sequence + 2]
        return slice(int(start), int(stop))

    def inputs(self, columns: int) -> Array:
        """Room for the inputs of one matrix, float32 (tokens of all sequences, columns). It is one and the same for
        all that ask for it."""
        file = files.zeros(self.folder / "inputs.f32", (int(self._starts[-1]), columns))
        self._inputs = [file]
        return file

    def release(self) -> None:
        """Let go of the memory that states and inputs have taken since they were touched: the system writes them."""
        for file in (*self._files.values(), *self._inputs):
            give_back(file)

    def close(self) -> None:
        """Let go of the files."""
        self._files.clear()
        self._inputs.clear()

    def _file(self, stream: str, number: int) -> np.memmap[Any, Any]:
        at = (stream, number % 2)
        if at not in self._files:
            self._files[at] = files.kept(self._path(stream, number), (int(self._starts[-1]), self.width))
        return self._files[at]

    def _path(self, stream: str, number: int) -> Path:
        return self.folder / f"{stream}-{number % 2}.f32"

    def _check_space(self, needed: int) -> None:
        there = sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())
        files.check_room(self.folder, needed, there)


class Contexts:
    """What layers leave for later ones, by stream and sequence: on disk where a graph has layers that share."""

    def __init__(self, workspace: Workspace, graph: Graph, lengths: Sequence[int], length: int) -> None:
        self._folder, self._lengths, self._length = workspace.folder, lengths, length
        self._read = graph.shared_layers
        self._inputs = [type(part) for part in graph.inputs]
        self._choice = any(getattr(getattr(mixer, "indexer", None), "shared", False) for mixer in graph.mixers())

    def load(self, stream: str, sequence: int, layer: int) -> Context:
        """The context of a sequence before or within a layer."""
        context = Context(max(layer, 0), self._length or self._lengths[sequence])
        for number, part in enumerate(self._inputs):
            if (path := self._path(stream, sequence, f"inputs{number}")).exists():
                context.inputs[part] = np.load(path, mmap_mode="r")
        for each in self._read:
            if (path := self._path(stream, sequence, f"keys{each}")).exists():
                context.cached[each] = np.load(path), np.load(self._path(stream, sequence, f"values{each}"))
        if self._choice and (path := self._path(stream, sequence, "choice")).exists():
            context.chosen = np.load(path)
        return context

    def save(self, stream: str, sequence: int, context: Context, layer: int) -> None:
        """Keep what a layer has added to a context, as far as later ones read it."""
        if layer < 0:
            for number, part in enumerate(self._inputs):
                if part in context.inputs:
                    files.save(self._path(stream, sequence, f"inputs{number}"), context.inputs[part])
        elif layer in self._read and layer in context.cached:
            for name, values in zip(("keys", "values"), context.cached[layer], strict=True):
                files.save(self._path(stream, sequence, f"{name}{layer}"), values)
        if self._choice and context.chosen is not None:
            files.save(self._path(stream, sequence, "choice"), context.chosen)

    def _path(self, stream: str, sequence: int, what: str) -> Path:
        return self._folder / f"{stream}-{sequence}-{what}.npy"
