"""How much effort a conversion makes to lose little, and what of it is asked for.

Effort 0 encodes every tensor by itself. From effort 1 on the model is run on text, layer by layer, and each matrix is
rounded for the inputs that it will have (`convert.calibrated`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gguflike.errors import ArgumentError, ArgumentTypeError, check_choice, check_integer

Chat = Callable[..., str]
"""A file's metadata, messages -> the text that the chat template there makes of them, with ``tools=`` of some."""

HIGHEST = 3
FOLDS = ("awq", "smooth")
TOKENS = 131_072  # of calibration where nothing else is asked for


@dataclass(frozen=True)
class Effort:
    """What is asked for, checked. ``level``: 0 rounds every tensor by itself, 1 runs the model on text and rounds each
    matrix so that its layer gives what it should, for the inputs that it gets when all before it is rounded. 2 also
    measures, by a backward pass, how much each output matters to what the model says; ``seed`` draws for that. 3 then
    trains what was rounded, as a whole, to say what the model says.

    ``texts`` are paths of files of text, none for those of the package, of which ``tokens`` are used at most; ``chat``
    renders conversations among them. ``fold``: which scales are moved between tensors before they are quantized, on
    any level: those of "awq" or of "smooth" (SmoothQuant). ``hessians``: on level 1, the folder of those that
    `gguflike.calibrate` has kept, so that no text is read.
    """

    level: int = 0
    texts: tuple[str, ...] = ()
    tokens: int = TOKENS
    seed: int = 0
    chat: Chat | None = None
    fold: str | None = None
    hessians: str | None = None

    @property
    def is_loss_aware(self) -> bool:
        """Whether it is measured how much each output matters to what the model says."""
        return self.level > 1

    @property
    def is_tuned(self) -> bool:
        """Whether what was rounded is trained end to end."""
        return self.level > 2

    @property
    def is_calibrated(self) -> bool:
        """Whether the model is run on text."""
        return self.level > 0


NONE = Effort()


def effort_of(
    effort: int,
    calibration: Sequence[str | os.PathLike[str]] = (),
    calibration_tokens: int | None = None,
    seed: int = 0,
    chat: Chat | None = None,
    fold: str | None = None,
    hessians: str | os.PathLike[str] | None = None,
) -> Effort:
    """The arguments of `gguflike.convert`, checked. ArgumentError, or ArgumentTypeError, names the first that is not
    valid. ``hessians`` are what effort 1 rounds with: they ask for it."""
    level = check_integer("effort", effort, 0, HIGHEST)
    if hessians is not None:
        _check_alone(level, calibration=calibration, calibration_tokens=calibration_tokens, fold=fold)
        level = 1
    if fold is not None:
        check_choice("fold", fold, FOLDS)
    texts = files_of("calibration", calibration)
    for name, value in (("calibration", list(texts)), ("calibration_tokens", calibration_tokens)):
        if level == 0 and fold is None and value:
            raise ArgumentError("nothing is calibrated", field=name, got=repr(value), remedy="add `effort=1`")
    if level < 2 and check_integer("seed", seed, 0, (1 << 64) - 1):
        raise ArgumentError("nothing is drawn by chance", field="seed", got=seed, remedy="add `effort=2`")
    return Effort(
        level,
        texts,
        TOKENS if calibration_tokens is None else check_integer("calibration_tokens", calibration_tokens, 2),
        seed,
        chat,
        fold,
        None if hessians is None else os.fspath(hessians),
    )


def files_of(field: str, given: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """The paths that the argument ``field`` lists. ArgumentTypeError where that is no list."""
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise ArgumentTypeError("not a list", field=field, expected="a list of files", got=repr(given))
    return tuple(os.fspath(each) for each in given)


def _check_alone(level: int, **others: Any) -> None:
    """ArgumentError for what kept Hessians leave nothing to do for."""
    if level > 1:
        raise ArgumentError(
            "kept Hessians say nothing of what outputs matter, which is measured on the text itself",
            field="hessians",
            remedy="leave out either it or `effort`",
        )
    for name, value in others.items():
        if value:
            raise ArgumentError(
                _WITH_HESSIANS[name], field=name, got=repr(value), remedy="leave out either it or `hessians`"
            )


_WITH_HESSIANS = {
    "calibration": "the Hessians are kept of other text, and none is read",
    "calibration_tokens": "the Hessians are kept of other text, and none is read",
    "fold": "the Hessians are of inputs whose scales were not moved",
}


def check_together(effort: Effort, **others: Any) -> None:
    """ArgumentError for the first of the ``others``, arguments by name, that is given and does nothing, or something
    else, in a conversion that is calibrated."""
    if effort.fold is not None and others.get("generic"):
        raise ArgumentError(_WHY["generic"], field="generic", got="True", remedy="leave out either it or `fold`")
    if not effort.is_calibrated:
        return
    for name, value in others.items():
        if value:
            asked = f"`effort={effort.level}`" if effort.hessians is None else "`hessians`"
            raise ArgumentError(_WHY[name], field=name, got=repr(value)[:60], remedy=f"leave out either it or {asked}")


_WHY = {
    "imatrix": "importance is measured where the model is calibrated, with all that it goes with",
    "executor": "layers are calibrated one after the other, each on what the last one gives",
    "generic": "of a network of any kind it is not known what it computes, so that it cannot be calibrated",
    "method": "rounding to nearest by the largest magnitude is nothing to calibrate",
}
