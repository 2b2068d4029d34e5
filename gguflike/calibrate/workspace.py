"""What a walk through a model keeps on disk: hidden states of all sequences, contexts, how many layers are done.

The states before layer i are in file i % 2 of each stream, and layer i works on a copy in the other: whenever a walk is
interrupted, the states before the layer that it was in are whole. Nobody waits for the disk: after a loss of power they
may be less than is said to be done, which their digests tell, and the walk begins anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate import files
from gguflike.families.parts import Graph
from gguflike.kernels.engine.memory import give_back
from gguflike.reference.formulas import Array, Context

FLOAT, QUANTIZED = "float", "quantized"
_PROGRESS = "progress.json"
_PIECE = 1 << 24
"""Bytes of states that are in memory while their digest is computed."""


class Workspace:
    """A folder with the states of ``streams`` of sequences of these ``lengths``, each state of ``width`` float32.

    OutputError where the disk has no room for ``needed`` bytes there.
    """

    def __init__(
        self, folder: Path, streams: Sequence[str], lengths: Sequence[int], width: int, needed: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.streams, self.width = folder, tuple(streams), width
        self._starts = np.cumsum([0, *lengths])
        self._check_space(needed)
        self._files: dict[tuple[str, int], np.memmap[Any, Any]] = {}
        self._inputs: list[np.memmap[Any, Any]] = []  # the one that there is

    def done(self, key: str) -> int:
        """How many layers a walk with this ``key`` has done; 0 where there was none, or another, or where the states
        that it left are not there whole."""
        try:
            said = json.loads((self.folder / _PROGRESS).read_text(encoding="utf-8"))
            layers = int(said["layers"])
            return layers if said["key"] == key and said["states"] == self._digests(layers) else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def finish(self, key: str, layers: int) -> None:
        """Note that so many layers are done, and the digests of the states after them."""
        said = {"key": key, "layers": layers, "states": self._digests(layers)}
        temporary = self.folder / f".{_PROGRESS}"
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(self.folder / _PROGRESS)

    def _digests(self, layers: int) -> dict[str, str]:
        """Of the states that the last of so many steps of a walk left: the first are the embeddings."""
        return {stream: _digest(self._file(stream, layers - 1)) for stream in self.streams}

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
            path, shape = self.folder / f"{stream}-{number % 2}.f32", (int(self._starts[-1]), self.width)
            whole = path.exists() and path.stat().st_size == 4 * shape[0] * shape[1]
            self._files[at] = np.memmap(path, np.float32, "r+", shape=shape) if whole else files.zeros(path, shape)
        return self._files[at]

    def _check_space(self, needed: int) -> None:
        there = sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())
        files.check_room(self.folder, needed, there)


def _digest(states: np.memmap[Any, Any]) -> str:
    digest, rows = hashlib.sha256(), max(_PIECE // (4 * states.shape[1]), 1)
    for start in range(0, len(states), rows):
        digest.update(states[start : start + rows].data)
        give_back(states[start : start + rows])
    return digest.hexdigest()


class Contexts:
    """What layers leave for later ones, by stream and sequence: on disk where a graph has layers that share."""

    def __init__(self, workspace: Workspace, graph: Graph, lengths: Sequence[int], length: int) -> None:
        mixers = list(graph.mixers())
        self._folder, self._lengths, self._length = workspace.folder, lengths, length
        self._read = {mixer.kv_layer for mixer in mixers if getattr(mixer, "kv_layer", None) is not None}  # type: ignore[attr-defined]
        self._inputs = [type(part) for part in graph.inputs]
        self._choice = any(getattr(getattr(mixer, "indexer", None), "shared", False) for mixer in mixers)

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
                    np.save(self._path(stream, sequence, f"inputs{number}"), context.inputs[part])
        elif layer in self._read and layer in context.cached:
            for name, values in zip(("keys", "values"), context.cached[layer], strict=True):
                np.save(self._path(stream, sequence, f"{name}{layer}"), values)
        if self._choice and context.chosen is not None:
            np.save(self._path(stream, sequence, "choice"), context.chosen)

    def _path(self, stream: str, sequence: int, what: str) -> Path:
        return self._folder / f"{stream}-{sequence}-{what}.npy"
