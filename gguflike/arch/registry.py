"""The model families by the names they go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguflike.arch.llama import LLAMA, MISTRAL
from gguflike.arch.spec import ArchSpec
from gguflike.errors import CheckpointError, UnsupportedError

# Of several specs with one GGUF name, the first speaks for files.
SPECS: tuple[ArchSpec, ...] = (LLAMA, MISTRAL)
_BY_HF_NAME: Mapping[str, ArchSpec] = {name: spec for spec in SPECS for name in spec.hf_names}
_BY_GGUF_NAME: Mapping[str, ArchSpec] = {spec.name: spec for spec in reversed(SPECS)}


def for_config(config: Mapping[str, Any]) -> ArchSpec:
    """The family of a checkpoint, by the ``architectures`` of its config.json."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            "architectures must name one model class",
            field="config.json",
            expected="a list of one name",
            got=repr(names),
        )
    return _find(_BY_HF_NAME, names[0], "config.json")


def for_gguf(architecture: str) -> ArchSpec:
    """The family of a GGUF file, by its ``general.architecture``."""
    return _find(_BY_GGUF_NAME, architecture, "general.architecture")


def _find(table: Mapping[str, ArchSpec], name: str, where: str) -> ArchSpec:
    if name not in table:
        raise UnsupportedError("model architecture", field=where, expected="one of " + ", ".join(table), got=repr(name))
    return table[name]
