"""What stands in where tokenizer.json is missing, each read as the tokenizer.json that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguflike.errors import CheckpointError


def read(
    folder: Path,
    settings: Mapping[str, Any],  # noqa: ARG001
    config: Mapping[str, Any],  # noqa: ARG001
) -> tuple[Path, dict[str, Any], Sequence[float] | None]:
    """The file that has the vocabulary, as tokenizer.json, and its scores. CheckpointError where there is none."""
    raise CheckpointError(
        "the folder has no tokenizer.json",
        path=folder,
        remedy="save one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )
