"""Writing safetensors: a header planned from shapes alone, then the data in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguflike.checkpoint import float8
from gguflike.checkpoint.safetensors import INDEX, NUMPY, SINGLE

SHARD_BYTES = 5_000_000_000  # what Transformers splits at
#: What can be written, and numpy's dtype of it; bfloat16 comes as its bits.
DTYPES: Mapping[str, str] = {dtype: code for dtype, code in NUMPY.items() if dtype not in float8.KINDS}
ITEM_BYTES: Mapping[str, int] = {name: int(code[-1]) for name, code in DTYPES.items()}
#: ``__metadata__`` of what is written: "pt" is what Transformers asks for, the rest tells our files from others'.
METADATA: Mapping[str, str] = {"format": "pt", "exported_by": "gguflike"}


@dataclass(frozen=True)
class Entry:
    """One tensor to be written, as a dtype of DTYPES. ``title`` is its name in the file, if another."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    title: str | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def shards(entries: Sequence[Entry], limit: int = SHARD_BYTES) -> dict[str, list[Entry]]:
    """File name -> its tensors. Files hold at most ``limit`` bytes of data, or one larger tensor."""
    groups: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if groups[-1] and filled + entry.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def header(entries: Iterable[Entry]) -> tuple[bytes, list[Entry]]:
    """The header of one file, and the order in which the data must follow: wide types first, to keep them aligned."""
    ordered = sorted(entries, key=lambda entry: (-ITEM_BYTES[entry.dtype], entry.name))
    table: dict[str, Any] = {"__metadata__": METADATA}
    position = 0
    for entry in ordered:
        offsets = [position, position + entry.nbytes]
        table[entry.title or entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        position += entry.nbytes
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def is_exported(path: Path) -> bool:
    """Whether ``header`` wrote the header of a safetensors file."""
    start = json.dumps({"__metadata__": METADATA}, separators=(",", ":"))[:-1].encode()
    with path.open("rb") as file:
        return file.read(8 + len(start))[8:] == start


def index(files: Mapping[str, Sequence[Entry]]) -> dict[str, Any]:
    """The document of model.safetensors.index.json."""
    total = sum(entry.nbytes for entries in files.values() for entry in entries)
    weight_map = {entry.name: file for file, entries in files.items() for entry in entries}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def write_tensors(
    folder: Path, files: Mapping[str, Sequence[Entry]], parts: Callable[[Entry], Iterable[memoryview]]
) -> None:
    """Write all files into ``folder``; ``parts`` gives a tensor's bytes in order. Data is on disk on return."""
    for file, entries in files.items():
        head, ordered = header(entries)
        (folder / file).parent.mkdir(exist_ok=True)
        with (folder / file).open("xb") as out:
            out.write(head)
            for entry in ordered:
                for part in parts(entry):
                    out.write(part)
            out.flush()
            os.fsync(out.fileno())
    if len(files) > 1:
        write_json(folder / INDEX, index(files))


def write_json(path: Path, document: Any) -> None:
    """One JSON file as Transformers lays it out, on disk on return."""
    with path.open("x", encoding="utf-8") as out:
        json.dump(document, out, indent=2, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
