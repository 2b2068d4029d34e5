"""Where a file goes: the name that a target means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gguflike.blocks import FORMATS
from gguflike.convert import recipe as recipes

_SHARD = re.compile(r"-\d{5,}-of-\d{5,}$")


def place(target: str | os.PathLike[str], model: str, type_name: str) -> Path:
    """The file that a target means: itself, or ``MODEL-TYPE.gguf`` in it where it is a folder or ends as one does.

    ``model`` is a Hub id, a file's or folder's name. In a target's name, {ftype} and {FTYPE} stand for the type, as in
    llama.cpp's converter.
    """
    text = os.fsdecode(target)
    text = text.replace("{ftype}", type_name.lower()).replace("{FTYPE}", type_name)
    ending = os.path.basename(text)  # noqa: PTH119 - a Path drops the slash
    if text and (ending in ("", ".", "..") or os.path.isdir(text)):  # noqa: PTH112
        return Path(text) / f"{stem(model)}-{type_name}.gguf"
    return Path(text)


def stem(model: str) -> str:
    """A model's name without organization, ending, number of a shard and type: ``org/m-F16.gguf`` -> ``m``."""
    name = _SHARD.sub("", model.rpartition("/")[2].removesuffix(".gguf"))
    types = "|".join(sorted({*recipes.RECIPES, *recipes.ALIASES, *FORMATS}, key=len, reverse=True))
    return re.sub(rf"[-._]({types})$", "", name, flags=re.IGNORECASE) or name
