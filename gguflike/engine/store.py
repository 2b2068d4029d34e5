"""What a slot holds of a text, as a file of a name (files.py): to go on after the program was ended.

The header says of which model the text is, by which version and in what type of cache, for which context, and its
tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gguflike.engine import files
from gguflike.errors import ArgumentError, CacheError, check_text
from gguflike.runner.slots import Saved

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.slots import Slot

MAGIC = b"gguflike slot 1\n"
SUFFIX = ".slot"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store:
    """Files of slots in one folder."""

    def __init__(self, folder: Path, model: Model) -> None:
        """ArgumentError where there is no such folder."""
        if not folder.is_dir():
            raise ArgumentError("no such folder", path=folder, field="store", remedy="make the folder first")
        self._folder, self._model = folder, model

    def save(self, slot: Slot, name: str) -> int:
        """Write what a slot holds; returns how many tokens. A file of that name is replaced. ArgumentError for a name
        that is none, and for a slot that holds nothing, OutputError where the file cannot be written."""
        path = self._path(name)
        if not slot.tokens:
            raise ArgumentError("the slot holds nothing that could be saved", field="slot", got=slot.number)
        saved = slot.save()
        header = {**files.about(self._model), "tokens": saved.tokens, "prefilled": saved.prefilled}
        files.write(path, MAGIC, header, saved.states)
        return len(saved.tokens)

    def restore(self, slot: Slot, name: str) -> int:
        """Let a slot hold what is in a file; returns how many tokens. CacheError where the file is missing, damaged, or
        of another model, version, type of cache or context: the slot holds nothing then."""
        path = self._path(name)
        slot.lose()
        header, states = files.read(path, MAGIC, files.about(self._model))
        saved = Saved(header["tokens"], header["prefilled"], states)
        try:
            slot.restore(saved)
        except (ValueError, IndexError) as error:
            slot.lose()
            raise CacheError("its arrays do not fit the model's", path=path, got=str(error)) from error
        return len(saved.tokens)

    def _path(self, name: str) -> Path:
        check_text("name", name)
        if not _NAME.fullmatch(name):
            raise ArgumentError(
                "not a name of a saved slot",
                field="name",
                expected="letters, digits, dots, dashes and underscores, at most 100, no path",
                got=repr(name)[:60],
            )
        return self._folder / (name + SUFFIX)
