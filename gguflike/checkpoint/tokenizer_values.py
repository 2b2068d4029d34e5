"""Values of a tokenizer's metadata, checked for their kinds: GGUFError names the key where one is of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from gguflike.errors import GGUFError, counted
from gguflike.texts import Texts

if TYPE_CHECKING:
    import numpy.typing as npt


@runtime_checkable
class PackedTexts(Protocol):
    """Metadata that has arrays of strings packed (``gguflike.container.Metadata``)."""

    def texts(self, key: str) -> Texts | None: ...


def string(metadata: Mapping[str, Any], key: str, default: str | None) -> str:
    """A string; ``default`` where there is none, unless that is None."""
    value = metadata.get(key, default)
    if value is None:
        raise GGUFError("the file holds no tokenizer", field=key, expected="a string", got="nothing")
    if not isinstance(value, str):
        raise GGUFError("wrong type", field=key, expected="a string", got=type(value).__name__)
    return value


def flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    """A truth value, ``default`` where there is none."""
    value = metadata.get(key, default)
    if not isinstance(value, (bool, np.bool_)):
        raise GGUFError("wrong type", field=key, expected="a boolean", got=type(value).__name__)
    return bool(value)


def _array(value: Any) -> npt.NDArray[Any] | None:
    """A value that is an array, as one of numpy; None for any other, and for texts."""
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (str, bytes)) for item in value):
        return np.asarray(value)
    return value if isinstance(value, np.ndarray) else None


def octets(metadata: Mapping[str, Any], key: str) -> bytes:
    """An array of uint8 or int8 as bytes; empty where there is none."""
    value = metadata.get(key)
    if value is None:
        return b""
    array = _array(value)
    if array is None or array.ndim != 1 or array.dtype not in (np.uint8, np.int8):
        raise GGUFError("wrong type", field=key, expected="an array of bytes", got=type(value).__name__)
    return array.tobytes()


def strings(metadata: Mapping[str, Any], key: str) -> Texts:
    """An array of strings, which must be there."""
    packed = metadata.texts(key) if isinstance(metadata, PackedTexts) and key in metadata else None
    if packed is not None:
        return packed
    value = metadata.get(key)
    if value is None:
        raise GGUFError("missing", field=key, expected="an array of strings")
    if isinstance(value, (str, bytes, np.ndarray)) or not isinstance(value, Sequence):
        raise GGUFError("wrong type", field=key, expected="an array of strings", got=type(value).__name__)
    if not set(map(type, value)) <= {str, bytes}:
        for index, item in enumerate(value):
            if not isinstance(item, (str, bytes)):
                raise GGUFError("wrong type", field=f"{key}[{index}]", expected="a string", got=type(item).__name__)
    return Texts.of(value)


def numbers(metadata: Mapping[str, Any], key: str, kinds: str, count: int, default: float) -> npt.NDArray[Any]:
    """A numeric array of ``count`` entries (more are ignored, as in llama.cpp), or ``default`` everywhere."""
    value = metadata.get(key)
    if value is None:
        return np.full(count, default)
    array = _array(value)
    if array is None or array.ndim != 1 or array.dtype.kind not in kinds or array.dtype.itemsize < 4:
        got = type(value).__name__ if array is None else f"{array.dtype} of shape {array.shape}"
        expected = "an array of 32-bit " + " or ".join({"i": "integers", "f": "floats"}[kind] for kind in kinds)
        raise GGUFError("wrong type", field=key, expected=expected, got=got)
    if len(array) < count:
        raise GGUFError(
            "array is shorter than the vocabulary",
            field=key,
            expected=counted(count, "entry", "entries"),
            got=len(array),
        )
    return array[:count]
