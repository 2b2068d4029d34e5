"""The model card: the YAML at the head of README.md, as far as GGUF has a place for it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files

#: Bytes of YAML that are parsed. A card may hold megabytes of results, under a key that is not read.
LIMIT = 1 << 16
#: Lists and mappings in one value: far more than any has, and few enough to be parsed at once.
BRACKETS = 500

_KEY = re.compile(r"""(['"]?)([\w.-]+)\1\s*:(\s|$)""")
_NOTHING = ("", "~", "null", "Null", "NULL", "None")


def read(folder: Path, keys: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of ``keys`` in the card, and notices of those that cannot be read.

    Values are texts, lists and mappings of them, without empty entries: numbers, dates and words such as "no" stay as
    they are written. CheckpointError where README.md is a link that points nowhere, or a git-lfs pointer.
    """
    lines = text(folder).splitlines()
    if not lines or lines[0].rstrip() != "---" or "---" not in (line.rstrip() for line in lines[1:]):
        return {}, []
    found: dict[str, Any] = {}
    notices = []
    for key, block in _blocks(lines[1:]).items():
        if key not in keys and key:
            continue
        try:
            value = _parse(block)
        except ValueError as error:
            notices.append(f"README.md: {key or 'what is before its text'} cannot be read: {error}")
            continue
        found |= value if isinstance(value, dict) else {}
    filled = {key: _filled(found[key]) for key in keys if key in found}
    return {key: value for key, value in filled.items() if value}, notices


def text(folder: Path) -> str:
    """All of README.md; nothing where there is none. CheckpointError as `read` says."""
    path = folder / "README.md"
    return files.read(path).decode("utf-8-sig", "replace") if files.present(path) else ""


def _blocks(lines: list[str]) -> dict[str, str]:
    """The text of each key of the front matter, which begins ``lines``; all of it by "" where no line begins with a
    key."""
    blocks: dict[str, list[str]] = {}
    rest: list[str] = []
    for line in lines:
        if line.rstrip() == "---":
            break
        key = _KEY.match(line)
        if key:
            rest = blocks[key[2]] = []
        elif not blocks and line.strip() and not line.startswith("#"):
            rest = blocks.setdefault("", rest)
        rest.append(line.replace("\t", "  "))
    return {key: "\n".join(each) for key, each in blocks.items()}


def _parse(block: str) -> Any:
    """YAML of nothing but texts: no tag makes an object. ValueError where it is none, and for aliases, of which a few
    lines would make billions of texts."""
    import yaml

    if len(block) > LIMIT:
        raise ValueError(f"longer than {LIMIT:,} characters")
    if sum(map(block.count, "[{")) > BRACKETS:
        raise ValueError("nested too deeply")
    try:
        if "*" in block and any(isinstance(each, yaml.AliasEvent) for each in yaml.parse(block, yaml.BaseLoader)):
            raise ValueError("aliases are not read")
        return yaml.load(block, Loader=yaml.BaseLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(getattr(error, "problem", None) or getattr(error, "reason", None) or _said(error)) from None


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError and str(error) else "not YAML"


def _filled(value: Any) -> Any:
    """A text, a list without empty entries, or a mapping; None for nothing."""
    if isinstance(value, list):
        return [each for each in value if each not in _NOTHING]
    return None if value in _NOTHING else value
