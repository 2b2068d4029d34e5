"""What the name of a model says: its maker, its size, its version, as GGUF's naming convention has it.

The convention (github.com/ggml-org/ggml, docs/gguf.md) writes BaseName-SizeLabel-FineTune-Version. Names of the Hub
have the same parts, in other orders and with others between; they are told apart as llama.cpp's converter does, so that
files of both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

_VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(?P<count>A|\d+x)?\d+([._]\d+)?[KMBT]\d?", re.IGNORECASE)
_SIZE_WORD = re.compile(r"small|mini|medium|large|x?xl", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_AS_WRITTEN = re.compile(r"v\d+(?:\.\d+)*|\d.*")


class Names(NamedTuple):
    """The parts of a name, None where it does not have them."""

    name: str | None = None
    organization: str | None = None
    basename: str | None = None
    size_label: str | None = None
    finetune: str | None = None
    version: str | None = None


def title(name: str) -> str:
    """``smollm2-135M-instruct`` -> ``Smollm2 135M Instruct``: words that are all lower case get a capital."""
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _AS_WRITTEN.fullmatch(w) else w for w in words)


def parse(model_id: str, parameters: int) -> Names:
    """The parts of ``name`` or ``organization/name``, of a model of so many weights. A name with spaces has none."""
    if " " in model_id:
        return Names(model_id)
    maker, slash, rest = model_id.partition("/")
    organization, name = (maker, rest) if slash else (None, model_id)
    if organization is not None and organization.startswith("."):  # "./folder" is no maker's
        organization = None
    words = [word for word in name.split("-") if word]
    kinds = [_kind(word, first=i == 0, parameters=parameters) for i, word in enumerate(words)]
    words = [_spelled(word, kind) for word, kind in zip(words, kinds, strict=True)]
    kinds = ["finetune" if kind == "context" else kind for kind in kinds]
    if any(kind == "size" and re.search(r"\d", word) for word, kind in zip(words, kinds, strict=True)):
        kinds = ["" if kind == "size" and word.isalpha() else kind for word, kind in zip(words, kinds, strict=True)]
    stem = _stem(words, kinds)
    kinds = [kind or "finetune" for kind in kinds]

    def joined(kind: str) -> str | None:
        chosen = [w for i, (w, each) in enumerate(zip(words, kinds, strict=True)) if i >= stem and each == kind]
        return "-".join(dict.fromkeys(chosen) if kind == "size" else chosen) or None

    size, finetune, version = joined("size"), joined("finetune"), joined("version")
    basename = "-".join(words[:stem]) if size or finetune or version else None
    return Names(name or None, organization, basename or None, size, finetune, version)


def _kind(word: str, first: bool, parameters: int) -> str:
    """What a word of a name is: "version", "type", "size", "context" (a length), "finetune", or "" where open."""
    if _VERSION.fullmatch(word):
        return "version"
    if _TYPE.fullmatch(word):
        return "type"
    if first:
        return ""
    size = _SIZE.fullmatch(word)
    if size:
        return "size" if size["count"] or _is_near(_normal(word), parameters) else "context"
    if _SIZE_WORD.fullmatch(word):
        return "size"
    return "finetune" if _FINETUNE.fullmatch(word) else ""


def _normal(word: str) -> str:
    """A size as GGUF writes it: "7.1B" of "7b1", "1.5B" of "1_5b"."""
    word = word.replace("_", ".")
    if word[-1].isdecimal():
        word = f"{word[:-2]}.{word[-1]}{word[-2]}"
    return word[:-1] + word[-1].upper()


def _is_near(size: str, parameters: int) -> bool:
    """Whether a size is that of the model, and not the length of its context."""
    stated = float(size[:-1]) * 1000.0 ** " KMBT".index(size[-1])
    return not parameters or abs(stated - parameters) <= 7 * parameters // 8


def _spelled(word: str, kind: str) -> str:
    if kind == "type":
        return word.upper()
    if kind == "size" and _SIZE.fullmatch(word):
        return _normal(word)
    if kind == "context":
        return _normal(word)[:-1] + _normal(word)[-1].lower()
    return word


def _stem(words: list[str], kinds: list[str]) -> int:
    """How many words are the base name: those at the start that are open and begin with a letter, and versions, but for
    versions that end the whole name."""
    named = [kind == "version" or (kind == "" and word[0].isalpha()) for word, kind in zip(words, kinds, strict=True)]
    stem = named.index(False) if False in named else len(named)
    while stem == len(words) and stem and kinds[stem - 1] == "version":
        stem -= 1
        words, kinds = words[:stem], kinds[:stem]
    return stem


def size_label(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The size of a model of tensors of these shapes: 5.8M, 135M; 8x7.2B of one with 8 experts, by what one of them and
    the rest have."""
    experts = {name: shape for name, shape in shapes.items() if "_exps." in name and len(shape) >= 3}
    counts = [shape[0] for shape in experts.values()]
    shared = sum(prod(shape) for name, shape in shapes.items() if name not in experts)
    each = sum(prod(shape[1:]) for shape in experts.values())
    return f"{sum(counts) // len(counts)}x{rounded(shared + each)}" if counts else rounded(shared)


def rounded(weights: float) -> str:
    """Two significant digits at least and a suffix: 5.8M, 135M, 1.1B."""
    scale, suffix = next(((s, x) for s, x in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if weights > s), (1e3, "K"))
    value = weights / scale
    digits = max(2 - len(str(round(value)).lstrip("0")), 0)
    return f"{value:.{digits}f}{suffix}"
