"""The model families by the names they go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families.family import Family
from gguflike.families.llama import LLAMA, MISTRAL

# Of several families with one GGUF name, the first speaks for files.
FAMILIES: tuple[Family[Any], ...] = (LLAMA, MISTRAL)
_BY_CLASS: Mapping[str, Family[Any]] = {name: family for family in FAMILIES for name in family.classes}
_BY_ARCHITECTURE: Mapping[str, Family[Any]] = {family.name: family for family in reversed(FAMILIES)}


def for_config(config: Mapping[str, Any]) -> Family[Any]:
    """The family of a checkpoint, by the ``architectures`` of its config.json."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            "architectures must name one model class",
            field="config.json",
            expected="a list of one name",
            got=repr(names),
        )
    return _find(_BY_CLASS, names[0], "config.json")


def for_gguf(architecture: str) -> Family[Any]:
    """The family of a GGUF file, by its ``general.architecture``."""
    return _find(_BY_ARCHITECTURE, architecture, "general.architecture")


def _find(table: Mapping[str, Family[Any]], name: str, where: str) -> Family[Any]:
    if name not in table:
        raise UnsupportedError("model architecture", field=where, expected="one of " + ", ".join(table), got=repr(name))
    return table[name]
