"""The one error tree. The library raises these and never prints or exits.

    GGUFLikeError
    ├── GGUFError            a GGUF file breaks a rule of spec/container.md (or ends too early)
    │   └── DigestError      the structure is sound but the bytes are not those that were written
    ├── CheckpointError      a Hugging Face folder or safetensors file is incomplete or contradictory
    ├── UnsupportedError     well-formed, but a type, architecture or setting that is not handled
    ├── QuantizationError    values or shapes that cannot be stored in the block type asked for
    ├── TemplateError        a chat template failed, or tried what a template may not do
    └── OutputError          the target cannot be written (exists as the source, no space, no permission)

Every error says what is wrong, where, what was expected, what was found, and what to do about it.
"""

from __future__ import annotations

import os

__all__ = [
    "CheckpointError",
    "DigestError",
    "GGUFError",
    "GGUFLikeError",
    "OutputError",
    "QuantizationError",
    "TemplateError",
    "UnsupportedError",
]


class GGUFLikeError(Exception):
    """Base of every error the package raises on purpose.

    The parts are kept as attributes for programs; ``str(error)`` joins them for people.
    """

    def __init__(
        self,
        what: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        tensor: str | None = None,
        field: str | None = None,
        rule: str | None = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else os.fspath(path)
        self.offset = offset
        self.tensor = tensor
        self.field = field
        self.rule = rule
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        where = [
            text
            for value, text in (
                (self.path, f"{self.path}"),
                (self.offset, f"byte {self.offset}"),
                (self.tensor, f"tensor {self.tensor!r}"),
                (self.field, f"{self.field}"),
            )
            if value is not None
        ]
        parts = [f"{', '.join(where)}: {self.what}" if where else self.what]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.remedy is not None:
            parts.append(self.remedy)
        text = "; ".join(parts)
        return f"{text} [{self.rule}]" if self.rule else text


class GGUFError(GGUFLikeError):
    """A GGUF file breaks a rule of spec/container.md; ``rule`` holds the rule's id (C-001, ...)."""


class DigestError(GGUFError):
    """A digest recorded in the file does not match its bytes."""


class CheckpointError(GGUFLikeError):
    """A Hugging Face folder or one of its files is missing, incomplete or contradictory."""


class UnsupportedError(GGUFLikeError):
    """The input is well-formed but asks for something that is not handled."""


class QuantizationError(GGUFLikeError):
    """Values (NaN, infinities) or shapes (ragged rows) that the block type cannot hold."""


class TemplateError(GGUFLikeError):
    """A chat template failed, ran too long, or tried what a template may not do."""


class OutputError(GGUFLikeError):
    """The target cannot be written."""
