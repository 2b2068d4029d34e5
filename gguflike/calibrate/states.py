"""What a backward pass keeps on disk: what each block was given, for all sequences, and the gradients by it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate import files
from gguflike.kernels.engine.memory import give_back
from gguflike.reference.gradient.graph import State

Array = npt.NDArray[Any]

GRADIENT = -1
"""Stands for a block where the gradients are meant, of which there are those of one block at a time."""


class States:
    """A `State` for each of ``blocks`` blocks, for what the last one gives, and one of gradients, of sequences of these
    ``lengths``, below a folder. Residual streams have ``width`` float32 and stand in one file for each block.

    OutputError where the disk has no room for them.
    """

    def __init__(self, folder: Path, lengths: Sequence[int], width: int, blocks: int) -> None:
        self._folder, self._width = folder / "backward", width
        self._starts = np.cumsum([0, *lengths])
        self._streams: dict[int, Array] = {}
        self.remove()
        self._folder.mkdir(parents=True)
        files.check_room(folder, (blocks + 2) * int(self._starts[-1]) * width * 4)
        self._streams = {
            block: self.scratch(f"stream{block}", (int(self._starts[-1]), width))
            for block in range(GRADIENT, blocks + 1)
        }
        self._beside: dict[tuple[int, int], tuple[list[int], list[type]]] = {}

    def save(self, block: int, sequence: int, state: State) -> None:
        """Keep what a block is given. What blocks add beside the stream stays as it is, and is written once."""
        stream = self._stream(block, sequence)
        stream[:] = state.x
        give_back(stream)  # the memory, which the system writes
        self._beside[block, sequence] = list(state.cached), list(state.inputs)
        of = f"{sequence}-gradient" if block == GRADIENT else str(sequence)
        beside = {f"inputs{number}": value for number, value in enumerate(state.inputs.values())}
        for layer, (keys, values) in state.cached.items():
            beside |= {f"keys{layer}": keys, f"values{layer}": values}
        for name, value in beside.items():
            path = self._path(of, name)
            if block == GRADIENT or not path.exists():
                np.save(path, value)
        if state.chosen is not None:
            np.save(self._path(of, f"chosen{block}"), state.chosen)

    def load(self, block: int, sequence: int) -> State:
        """What a block is given."""
        of = f"{sequence}-gradient" if block == GRADIENT else str(sequence)
        layers, kinds = self._beside[block, sequence]
        stream = self._stream(block, sequence)
        x = np.array(stream)
        give_back(stream)
        chosen = self._path(of, f"chosen{block}")
        return State(
            x,
            {
                each: (np.load(self._path(of, f"keys{each}")), np.load(self._path(of, f"values{each}")))
                for each in layers
            },
            {kind: np.load(self._path(of, f"inputs{number}")) for number, kind in enumerate(kinds)},
            np.load(chosen) if chosen.exists() else None,
        )

    def scratch(self, name: str, shape: tuple[int, ...]) -> Array:
        """A file of zeros, float32."""
        return files.zeros(self._folder / f"{name}.f32", shape)

    def remove(self) -> None:
        """Delete the files."""
        self._streams.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stream(self, block: int, sequence: int) -> Array:
        start, stop = self._starts[sequence : sequence + 2]
        return self._streams[block][start:stop]

    def _path(self, of: str, name: str) -> Path:
        return self._folder / f"{of}-{name}.npy"
