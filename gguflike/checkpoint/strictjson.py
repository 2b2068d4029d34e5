"""Files of JSON, read strictly: UTF-8, no key twice, no NaN, an object (or a list, where one is asked for) at the top.

What JSON is, `gguflike.jsontext` says; here it has a path, and an error that says what else the file may be.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gguflike import jsontext
from gguflike.checkpoint import files
from gguflike.errors import CheckpointError

_BOM = b"\xef\xbb\xbf"


def parse(data: bytes, path: str | os.PathLike[str], field: str) -> dict[str, Any]:
    """The JSON object in ``data``. CheckpointError says where it stands and what is wrong with it."""
    value: dict[str, Any] = _of_kind(dict, data, path, field)
    return value


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a file. CheckpointError where it cannot be read."""
    return parse(files.read(path), path, path.name)


def load_config(path: Path) -> dict[str, Any]:
    """What a config.json says. Python has written many, and with them Infinity (of Mamba's ``time_step_limit``), which
    is not JSON. CheckpointError where it cannot be read."""
    value: dict[str, Any] = _of_kind(dict, files.read(path), path, path.name, infinite=True)
    return value


def load_texts(path: Path) -> dict[str, Any]:
    """The JSON object in a file of which every text goes into another. CheckpointError as well where one is not
    Unicode: JSON can escape half of a surrogate pair."""
    data = files.read(path)
    value = parse(data, path, path.name)
    if jsontext.HALF.search(data.decode()):
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


def _of_kind(kind: type, data: bytes, path: str | os.PathLike[str], field: str, *, infinite: bool = False) -> Any:
    try:
        value = jsontext.parsed(data.decode("utf-8"), unique=True, infinite=infinite)
    except UnicodeDecodeError as error:
        raise _foreign(data, path) or CheckpointError(
            "not UTF-8", path=path, field=field, offset=error.start, remedy="save it as UTF-8"
        ) from None
    except ValueError as error:
        remedy = "save it as UTF-8 without a byte order mark" if data.startswith(_BOM) else None
        raise _foreign(data, path) or CheckpointError(
            f"not valid JSON: {error}", path=path, field=field, remedy=remedy
        ) from None
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        raise CheckpointError(f"not {wanted} of JSON", path=path, field=field, got=type(value).__name__)
    return value


def _foreign(data: bytes, path: str | os.PathLike[str]) -> CheckpointError | None:
    """What a file is that is no JSON, where its first bytes tell."""
    is_json = data.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")
    return None if is_json else files.not_the_file(Path(path), data, "JSON")
