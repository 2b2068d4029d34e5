"""Types by what they cost, in a file of at most so many bytes: what is asked for (`convert.sized` keeps to it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gguflike.amounts import bytes_of
from gguflike.blocks import BlockFormat
from gguflike.convert.mixes import Recipe
from gguflike.convert.recipe import RECIPES
from gguflike.convert.selection import Selection
from gguflike.errors import ArgumentError, as_integer, check_integer, check_number, check_text
from gguflike.families.parts import Graph

CONTEXT = 4096  # tokens that memory is kept for, where nothing else is said

Beside = Callable[[Graph, int], int]
"""Bytes of memory that a model takes beside its weights where it runs with a context of so many tokens."""


@dataclass(frozen=True)
class Limit:
    """How large a file may be: ``bpw`` bits for each of its weights, or ``nbytes`` with its header, and, where there is
    a ``beside``, with what that says that it takes to run with a ``context``; ``label`` as it was given, and ``field``
    as what."""

    field: str
    label: str
    nbytes: int | None = None
    bpw: float | None = None
    context: int = 0
    beside: Beside | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe for what is not measured: an embedding that is no output matrix."""
        return replace(RECIPES["Q4_K_S"], name=self.label, rules=(), alias="", mix="Q4_K_S", wants_imatrix=False)


@dataclass(frozen=True)
class Budget:
    """Types that are still to be chosen: of each tensor in ``ladders`` one of its ladder, so that the file keeps to the
    ``limit``. ``is_ample``: the largest of the types fit. ``speed``: operations in a second, where no calibration knows
    it."""

    limit: Limit
    ladders: Mapping[str, Sequence[BlockFormat]] = field(repr=False)
    is_ample: bool = False
    speed: float | None = field(default=None, compare=False)

    @property
    def line(self) -> str:
        """What a plan says of it, whose types are a guess until they are measured."""
        largest = {fmts[-1].name for fmts in self.ladders.values()}
        fit = "fits" if len(largest) == 1 else "fit"
        ample = f"; even {' and '.join(sorted(largest))} {fit}, and floats are never chosen" if self.is_ample else ""
        return f"for at most {self.limit.label}; those above are a guess by bits alone{ample}"


def limit_of(
    size: int | str | None,
    bpw: float | None,
    fit_ram: int | str | None = None,
    context: int | None = None,
    beside: Beside | None = None,
) -> Limit | None:
    """The arguments of `gguflike.convert`, checked: None where none is given."""
    given = {name: each for name, each in (("size", size), ("bpw", bpw), ("fit_ram", fit_ram)) if each is not None}
    if len(given) > 1:
        first, second = list(given)[:2]
        raise ArgumentError(f"cannot be given with `{first}`", field=second, got=given[second])
    if context is not None and fit_ram is None:
        raise ArgumentError("says nothing without `fit_ram`", field="context", got=context)
    if bpw is not None:
        check_number("bpw", bpw, "a number of bits, such as 4.25", lambda value: 1 <= value <= 32)
        return Limit("bpw", f"{bpw:g}bpw", bpw=float(bpw))
    if size is not None:
        nbytes, label = _bytes("size", size)
        return Limit("size", label, nbytes=nbytes)
    if fit_ram is None:
        return None
    memory, label = _bytes("fit_ram", fit_ram)
    if beside is None:
        raise ArgumentError(
            "what a model takes beside its weights is not known",
            field="fit_ram",
            got=label,
            remedy="add `beside=gguflike.runner.needs.beside_weights`",
        )
    tokens = check_integer("context", CONTEXT if context is None else context, 1)
    return Limit("fit_ram", f"{label} with a context of {tokens}", nbytes=memory, context=tokens, beside=beside)


def _bytes(field: str, given: int | str) -> tuple[int, str]:
    """A size in bytes, and how it is called."""
    text = str(given) if as_integer(given) is not None else given
    check_text(field, text)
    label = str(text).strip()
    count = bytes_of(label)
    if count is None:
        raise ArgumentError("not a size", field=field, expected="bytes, or such as 4.5GiB or 500MB", got=repr(given))
    return count, label


def check_limit(limit: Limit | None, selection: Selection) -> None:
    """ArgumentError for a limit beside one type for all, of which nothing is left to choose."""
    if limit is not None and selection.pure:
        raise ArgumentError(
            "one type for all matrices leaves none to choose",
            field="pure",
            got="True",
            remedy=f"leave out either it or `{limit.field}`",
        )
