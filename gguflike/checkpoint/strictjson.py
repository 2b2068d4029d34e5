"""JSON read strictly: UTF-8, no duplicate keys, no NaN, an object (or a list, where one is asked for) at the top."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files
from gguflike.errors import CheckpointError

_BOM = b"\xef\xbb\xbf"
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair, or one of a whole pair


class _Reject(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Reject(f"duplicate key {key[:80]!r}")
            seen.add(key)
    return table


def _no_constant(name: str) -> float:
    raise _Reject(f"{name} is not JSON")


def parse(data: bytes, path: str | os.PathLike[str], field: str) -> dict[str, Any]:
    """The JSON object in ``data``. CheckpointError says where it stands and what is wrong with it."""
    value: dict[str, Any] = _of_kind(dict, data, path, field)
    return value


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a file. CheckpointError where it cannot be read."""
    return parse(files.read(path), path, path.name)


def load_texts(path: Path) -> dict[str, Any]:
    """The JSON object in a file of which every text goes into another. CheckpointError as well where one is not
    Unicode: JSON can escape half of a surrogate pair."""
    data = files.read(path)
    value = parse(data, path, path.name)
    if _HALF.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(
                "half of a surrogate pair, which is no character",
                path=path,
                got=repr(error.object[max(0, error.start - 20) : error.end + 20]),
                remedy="write the character that was meant",
            ) from None
    return value


def load_list(path: Path) -> list[Any]:
    """The JSON list in a file. CheckpointError where it cannot be read."""
    value: list[Any] = _of_kind(list, files.read(path), path, path.name)
    return value


def _of_kind(kind: type, data: bytes, path: str | os.PathLike[str], field: str) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _foreign(data, path) or CheckpointError(
            "not UTF-8", path=path, field=field, offset=error.start, remedy="save it as UTF-8"
        ) from None
    except RecursionError:
        raise CheckpointError("JSON is nested too deeply", path=path, field=field) from None
    except ValueError as error:
        remedy = "save it as UTF-8 without a byte order mark" if data.startswith(_BOM) else None
        long = "set_int_max_str_digits" in str(error)  # Python's advice is for who writes programs
        what = "a whole number of thousands of digits" if long else str(error)
        raise _foreign(data, path) or CheckpointError(
            f"not valid JSON: {what}", path=path, field=field, remedy=remedy
        ) from None
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        raise CheckpointError(f"not {wanted} of JSON", path=path, field=field, got=type(value).__name__)
    return value


def _foreign(data: bytes, path: str | os.PathLike[str]) -> CheckpointError | None:
    """What a file is that is no JSON, where its first bytes tell."""
    is_json = data.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")
    return None if is_json else files.not_the_file(Path(path), data, "JSON")
