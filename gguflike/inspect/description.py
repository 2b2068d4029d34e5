"""What a GGUF file holds, as one JSON document: the basis of ``gguflike inspect``."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from gguflike import quality
from gguflike.container import GGUFFile, TensorInfo, Typed, ValueType
from gguflike.container.file_types import FILE_TYPES

#: Items shown of a longer array, and characters of a longer string.
SHOWN_ITEMS = 8
LONGEST_ARRAY = 64
LONGEST_STRING = 1 << 16


def describe(file: GGUFFile) -> dict[str, Any]:
    """The inspect document of an open file; JSON as it stands, without NaN.

    ``format, version, architecture, file_type`` (name of the mix, None where the file gives none), ``parameters``
    (weights in all tensors), ``file_bytes`` (of all shards), ``bits_per_weight`` (bits of tensor data per weight),
    ``metadata`` (key -> value; see ``value``), ``quality`` (what the file says of how well the model does on each text;
    see `gguflike.quality.rows`), ``tensors`` (name, shape in numpy order, type, bytes, file offset).
    """
    return {
        "format": "GGUF",
        "version": file.version,
        "architecture": value(file, "general.architecture") if "general.architecture" in file.metadata else None,
        **outline(file),
        "metadata": {key: value(file, key) for key in file.metadata},
        "quality": quality.rows(file.metadata),
        "tensors": [tensor(info) for info in file.infos.values()],
    }


def outline(file: GGUFFile) -> dict[str, Any]:
    """``file_type``, ``parameters``, ``file_bytes`` and ``bits_per_weight``, as of `describe`."""
    infos = list(file.infos.values())
    parameters, data_bytes = sum(info.weights for info in infos), sum(info.nbytes for info in infos)
    return {
        "file_type": file_type(file),
        "parameters": parameters,
        "file_bytes": file.file_bytes,
        "bits_per_weight": 8 * data_bytes / parameters if parameters else None,
    }


def tensor(info: TensorInfo) -> dict[str, Any]:
    """One tensor: name, shape in numpy order, type, bytes, file offset."""
    return {
        "name": info.name,
        "shape": list(info.shape),
        "type": info.format.name,
        "bytes": info.nbytes,
        "offset": info.offset,
    }


def file_type(file: GGUFFile) -> str | None:
    """Name of the mix that ``general.file_type`` stands for; an unknown number is shown as such."""
    if "general.file_type" not in file.metadata:
        return None
    number = value(file, "general.file_type")
    return FILE_TYPES.get(number, f"unknown ({number})") if isinstance(number, int) else f"unknown ({number!r:.80})"


def value(file: GGUFFile, key: str, *, whole: bool = False) -> Any:
    """One metadata value as JSON, all of it where ``whole``.

    A long array becomes ``{"array": item type, "count": n, "first": [...]}``, a very long string ``{"string": start,
    "count": characters}``, bytes that are not UTF-8 ``{"bytes": hex}``; NaN and infinities become strings.
    """
    metadata = file.metadata
    longest = sys.maxsize if whole else LONGEST_STRING
    if metadata.type_of(key) is not ValueType.ARRAY:
        return plain(metadata[key], longest)
    count = metadata.count_of(key)
    if whole or count <= LONGEST_ARRAY:
        found = metadata[key]
        items = found.tolist() if isinstance(found, np.ndarray) else found
        return [plain(item, longest) for item in items]
    kind = metadata.item_type_of(key)
    return {
        "array": kind.name.lower() if kind is not None else "",
        "count": count,
        "first": [plain(item) for item in metadata.head(key, SHOWN_ITEMS)],
    }


def listed(value: Typed, most: int = sys.maxsize, longest: int = LONGEST_STRING) -> Any:
    """A value that need not be in a file, as JSON: of an array the first ``most`` items, each as of `plain`."""
    if value.item_type is None:
        return plain(value.value, longest)
    return [plain(item, longest) for item in value.value[:most]]


def plain(item: Any, longest: int = LONGEST_STRING) -> Any:
    """A number or text as JSON."""
    if type(item) in (bool, int):
        return item
    if isinstance(item, np.generic):
        item = item.item()
    if isinstance(item, bytes):
        return {"bytes": item[:longest].hex()} | ({"count": len(item)} if len(item) > longest else {})
    if isinstance(item, str) and len(item) > longest:
        return {"string": item[:longest], "count": len(item)}
    if isinstance(item, float) and not math.isfinite(item):
        return "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
    return item
