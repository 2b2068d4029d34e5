"""Where an engine's texts are computed: a place for each in what the model keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.generate import Continuation
    from gguflike.runner.passes import Floats, Saved


class Place:
    """A text's place in what the model keeps; ``saved`` is a copy while another text is computed."""

    def __init__(self) -> None:
        self.saved: Saved | None = None


class Work(NamedTuple):
    """Tokens to compute behind the first ``position`` of a place. ``logits``: those after the last are asked for."""

    place: Place
    ids: Sequence[int]
    position: int
    logits: bool


class Computer:
    """Computes what jobs need on one model, text by text."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def open(self, ids: Sequence[int], reuse: bool) -> tuple[Place, int]:
        """A place for a text, and how many of its tokens need not be computed."""
        place = Place()
        with self._model.turn(cast("Continuation", place)):
            return place, self._model.common_prefix(ids) if reuse else 0

    def compute(self, work: Sequence[Work]) -> list[Floats | Exception | None]:
        """Logits (vocab,) of each piece of work, None where none were asked for, or the error that ended it."""
        results: list[Floats | Exception | None] = []
        for place, ids, position, wanted in work:
            try:
                with self._model.turn(cast("Continuation", place)):
                    row: Any = self._model.extend(list(ids), position)[0]
                    results.append(row.copy() if wanted else None)
            except Exception as error:  # that of one text is no other's
                results.append(error)
        return results

    def close(self, place: Place, keep: bool) -> None:
        """A text ends; ``keep``: what was computed of it may serve others."""
        place.saved = None
        if not keep and not self._model.closed:
            with self._model.turn(cast("Continuation", place)):
                self._model.forget(0)
