"""What a check of a file says: one thing that is wrong or odd, where it is, and the rule it breaks."""

from __future__ import annotations

from typing import Any, Literal

from gguflike.container.view import HeaderView
from gguflike.errors import DigestError, GGUFError
from gguflike.frozen import fields, frozen

Severity = Literal["error", "warning", "note"]
#: From what must not be used to what is worth knowing: an error is damage or a broken rule, a warning odd and likely to
#: surprise who runs the file, a note a property of a sound file that other programs treat in another way.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

OURS = "gguflike.digest."  # keys that our writer gives every file
CHANGED = ("M-003", "M-004")  # the structure is sound, and the bytes are not those that were written


@frozen
class Finding:
    """One thing that is wrong (error), odd (warning) or worth knowing (note), where it is, and the rule it is of.

    ``offset`` counts bytes of the file at ``path``; ``tensor`` and ``field`` name what it is about; ``expected``,
    ``got`` and ``remedy`` say more where there is more to say. ``str`` joins all of it but the severity.
    """

    severity: Severity
    rule: str
    message: str
    path: str
    offset: int | None = None
    tensor: str | None = None
    field: str | None = None
    expected: str | None = None
    got: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, error: GGUFError, path: str) -> Finding:
        """What ``error`` says of ``path``, or of the file that it names itself."""
        return cls(
            "error",
            error.rule or "",
            error.what,
            error.path or path,
            error.offset,
            error.tensor,
            error.field,
            None if error.expected is None else str(error.expected),
            None if error.got is None else str(error.got),
            error.remedy,
        )

    def error(self) -> GGUFError:
        """The same as an error to raise: DigestError where contents changed, else GGUFError."""
        about = {name: value for name, value in self.document().items() if name not in ("severity", "message")}
        return (DigestError if self.rule in CHANGED else GGUFError)(self.message, **about)

    def document(self) -> dict[str, Any]:
        """The fields in order, for JSON."""
        return {name: getattr(self, name) for name in fields(type(self))}

    def __str__(self) -> str:
        return str(self.error())


def odd(file: HeaderView) -> Severity:
    """How severe it is that a file is not as our writer makes it: an error in our own, worth mentioning in others'."""
    return "error" if any(key.startswith(OURS) for key in file.metadata) else "warning"
