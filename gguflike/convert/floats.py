"""The model that is converted, as the parts of reference/ compute it: its graph, and its tensors as float32."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.texts import Text, bundled, read
from gguflike.checkpoint.encoder import Encoder
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.convert.effort import Chat
from gguflike.convert.facts import untyped
from gguflike.convert.slabs import read_slab, slabs
from gguflike.convert.sources import Floats, Source
from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families import registry
from gguflike.families.family import check_layers
from gguflike.families.parts import Graph

SLAB_BYTES = 1 << 24
LARGEST = float(np.finfo(np.float32).max)


class FloatModel:
    """A model by the ``metadata`` of its file, and by the ``sources`` of its tensors, as they are called there; errors
    call it by its ``label``.

    ``graph`` says what it computes, ``context`` how many tokens it was trained to read (0: not known). GGUFError or
    UnsupportedError where the architecture is not one that is known.
    """

    def __init__(self, metadata: Mapping[str, Any], sources: Iterable[Source], label: str) -> None:
        self.metadata = {key: untyped(value) for key, value in metadata.items()}
        self.sources: dict[str, Source] = {source.name: source for source in sources}
        architecture = self.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise UnsupportedError("the file names no architecture", path=label, field="general.architecture")
        family = registry.for_gguf(architecture).of_file(self.metadata, self.sources.keys())
        config = family.from_file(self.metadata, self.sources.keys())
        check_layers(config, label, len(self.sources))
        self.graph: Graph = family.graph(config)
        self.context = int(getattr(config, "n_ctx", 0) or 0)
        missing = [name for name, _, tensor in self.graph.tensors() if tensor.used and name not in self.sources]
        if missing:
            got = f"{len(missing)} of its tensors are not there"
            raise CheckpointError("a tensor of the model is missing", path=label, tensor=missing[0], got=got)

    def read(self, name: str) -> Floats:
        """A tensor, float32 in GGUF's shape. QuantizationError where a value is not finite."""
        source = self.sources[name]
        out = np.empty(source.shape, np.float32)
        for slab in slabs(source, SLAB_BYTES):
            part = read_slab(source, slab, LARGEST, compiled=True)
            if slab.rows is None:
                out[slab.start : slab.stop] = part
            else:
                out[slab.start, slab.rows[0] : slab.rows[1]] = part[0]
        return out

    def sha256(self, name: str) -> str:
        """The SHA-256 of a tensor's values, as `read` gives them; a slab of it is in memory at a time."""
        digest, source = hashlib.sha256(), self.sources[name]
        for slab in slabs(source, SLAB_BYTES):
            digest.update(np.ascontiguousarray(read_slab(source, slab, LARGEST, compiled=True), "<f4").data)
        return digest.hexdigest()

    def rest(self) -> str:
        """One SHA-256 of all that is no matrix: tables, norms, biases, in the order of their names."""
        names = {place.name for place in self.graph.tensors() if place.tensor.used and not place.tensor.is_matrix}
        digest = hashlib.sha256()
        for name in sorted(names):
            digest.update(f"{name} {self.sha256(name)}\n".encode())
        return digest.hexdigest()

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> Floats:
        """The rows of a table whose ``numbers`` rise, float32 (rows, columns)."""
        source = self.sources[name]
        out = np.empty((len(numbers), *source.shape[1:]), np.float32)
        for slab in slabs(source, SLAB_BYTES):
            low, high = np.searchsorted(numbers, (slab.start, slab.stop))
            if low < high:
                out[low:high] = read_slab(source, slab, LARGEST, compiled=True)[numbers[low:high] - slab.start]
        return out

    def parts(self, name: str, weights: int) -> Iterator[tuple[int, Floats]]:
        """A table, of which rows with about so many ``weights`` are in memory at a time: the first row's number, and
        the rows."""
        count, columns = self.sources[name].shape
        step = max(1, weights // columns)
        for start in range(0, count, step):
            yield start, self.rows(name, np.arange(start, min(start + step, count)))

    def encode(self, text: str, rendered: bool = False) -> Sequence[int]:
        """Token ids of a text, with BOS and EOS where the model wants them; ``rendered``: of what a template wrote."""
        return self._encoder.encode(text, not rendered, rendered)

    def texts(self, paths: Sequence[str | os.PathLike[str]], chat: Chat | None) -> list[Text]:
        """The texts of files, or those of the package where there are none; ``chat`` renders conversations."""
        has_template = chat is not None and "tokenizer.chat_template" in self.metadata
        render = partial(chat, self.metadata) if chat is not None and has_template else None
        return read(paths, render) if paths else bundled(render)

    @property
    def begin(self) -> list[int]:
        """What every sequence begins with: BOS, where the model wants one."""
        vocabulary = self._encoder.vocabulary
        bos = vocabulary.special.get("bos")
        return [bos] if vocabulary.add_bos and bos is not None else []

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(Vocabulary.from_metadata(self.metadata))
