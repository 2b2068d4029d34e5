"""The ``general.*`` metadata of a converted file, and where it came from (``gguflike.*``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguflike
from gguflike.convert.mixes import Recipe
from gguflike.convert.selection import Selection

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION: the block layouts in use since May 2023

# generation_config.json -> general.sampling.*, as llama.cpp's converter maps them.
_SAMPLING = {
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "temperature": ("temp", float),
}
_SIZE = re.compile(r"(\d+x)?(\d+(?:[._]\d+)?)([kmbt])", re.IGNORECASE)
_VERSION = re.compile(r"v?\d+(\.\d+)*", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|it|vision|base", re.IGNORECASE)


def general(
    architecture: str,
    source: str,
    parameters: int,
    recipe: Recipe,
    generation_config: Mapping[str, Any],
    card: Mapping[str, Any],
    name: str | None = None,
) -> dict[str, Any]:
    """The ``general.*`` keys. ``source`` is a Hub id or folder name, ``card`` the front matter of its README."""
    organization, _, model = source.rpartition("/")
    parts = name_parts(model, parameters)
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name or title(model),
    }
    if organization:
        metadata["general.organization"] = title(organization)
    metadata |= {f"general.{key}": value for key, value in parts.items()}
    metadata["general.size_label"] = parts.get("size_label") or size_label(parameters)
    metadata |= _card(card)
    if organization:
        metadata["general.source.repo_url"] = f"https://huggingface.co/{source}"
    for key, (target, kind) in _SAMPLING.items():
        value = generation_config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            metadata[f"general.sampling.{target}"] = kind(value)
    metadata["general.file_type"] = recipe.file_type
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    return metadata


def provenance(
    source: str, recipe: Recipe, selection: Selection, imatrix: str | None, revision: str | None = None
) -> dict[str, Any]:
    """Where the file came from and how: enough to make the same bytes again. No paths, dates or host names."""
    metadata: dict[str, Any] = {
        "gguflike.version": gguflike.__version__,
        "gguflike.source": source,
        "gguflike.recipe": recipe.name,
    }
    if revision:
        metadata["gguflike.source.revision"] = revision
    if selection.texts:
        metadata["gguflike.recipe.overrides"] = list(selection.texts)
    if options := selection.options():
        metadata["gguflike.recipe.options"] = options
    if imatrix:
        metadata["gguflike.imatrix"] = imatrix
    return metadata


def title(name: str) -> str:
    """``smollm2-135M-instruct`` -> ``Smollm2 135M Instruct``: words that are all lower case get a capital."""
    words = re.split(r"[-\s]+", name.strip("- "))
    return " ".join(w.title() if w.islower() and not _VERSION.fullmatch(w) and not w[0].isdigit() else w for w in words)


def name_parts(model: str, parameters: int) -> dict[str, str]:
    """basename, size_label, finetune and version of a name such as ``SmolLM2-135M-Instruct``, as far as given."""
    words = [word for word in model.split("-") if word]
    sizes = [i for i, word in enumerate(words) if i and _is_size(word, parameters)]
    versions = [i for i, word in enumerate(words) if i and _VERSION.fullmatch(word)]
    tunes = [i for i, word in enumerate(words) if i and _FINETUNE.fullmatch(word)]
    stem = min([*sizes, *versions, *tunes], default=len(words))
    rest = [word for i, word in enumerate(words) if i >= stem and i not in (*sizes[:1], *versions[:1])]
    found = {"basename": "-".join(words[:stem]), "finetune": "-".join(rest)}
    if sizes:
        found["size_label"] = words[sizes[0]].replace("_", ".").upper().replace("X", "x")
    if versions:
        found["version"] = words[versions[0]]
    return {key: value for key, value in found.items() if value}


def _is_size(word: str, parameters: int) -> bool:
    """Whether a word such as 135M tells the size, and not a context length: it must be near the number of weights."""
    match = _SIZE.fullmatch(word)
    if match is None or match[1]:
        return match is not None
    stated = float(match[2].replace("_", ".")) * 1000.0 ** " KMBT".index(match[3].upper())
    return abs(stated - parameters) <= 0.875 * parameters


def size_label(parameters: int) -> str:
    """Two significant digits at least and a suffix: 5.8M, 135M, 1.1B."""
    scale, suffix = next(((s, x) for s, x in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if parameters > s), (1e3, "K"))
    value = parameters / scale
    digits = max(2 - len(str(round(value)).lstrip("0")), 0)
    return f"{value:.{digits}f}{suffix}"


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    licence = card.get("license")
    if licence:
        metadata["general.license"] = ",".join(licence) if isinstance(licence, list) else licence
    for key, target in (("license_name", "license.name"), ("license_link", "license.link")):
        if isinstance(card.get(key), str):
            metadata[f"general.{target}"] = card[key]
    for key, target in (("tags", "tags"), ("language", "languages")):
        value = card.get(key)
        if value:
            metadata[f"general.{target}"] = value if isinstance(value, list) else [value]
    return metadata


def read_card(folder: Path) -> dict[str, Any]:
    """Plain keys and flat lists of the YAML front matter of README.md; whatever is more complicated is left out."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    card: dict[str, Any] = {}
    key = ""
    for line in lines[1 : lines.index("---", 1)]:
        item = re.fullmatch(r"\s*-\s+([^:{\[]+)", line)
        pair = re.fullmatch(r"([\w.-]+):\s*(.*)", line)
        if pair:
            key, text = pair[1], _plain(pair[2])
            inner = re.fullmatch(r"\[(.*)\]", text)
            card[key] = [_plain(part) for part in inner[1].split(",") if part.strip()] if inner else text
        elif item and (card.get(key) == "" or isinstance(card.get(key), list)):
            card[key] = [*(card[key] or []), _plain(item[1])]
        else:
            card.pop(key, None)  # a nested mapping
    return {k: v for k, v in card.items() if v}


def _plain(text: str) -> str:
    return text.strip().strip("\"'")
