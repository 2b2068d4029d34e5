"""The ``general.*`` metadata of a converted file, and where it came from (``gguflike.*``).

Names, makers, base models and the rest are told from the same places and in the same order as by llama.cpp's converter
(gguf-py, metadata.py): the model card, then ``_name_or_path`` of config.json, then the folder's name. Of a repository
of the Hub, its id comes before ``_name_or_path``, which often is that of the model it was made from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import gguflike
from gguflike.container import Typed, ValueType
from gguflike.convert.mixes import Recipe
from gguflike.convert.model_names import Names, parse, size_label, title
from gguflike.convert.selection import Selection
from gguflike.errors import CheckpointError

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION: the block layouts in use since May 2023
HUB = "https://huggingface.co"

# general.sampling.* -> keys of generation_config.json, and type.
_SAMPLING = {
    "sequence": (("sequence",), ValueType.STRING),
    "top_k": (("top_k",), ValueType.INT32),
    "top_p": (("top_p",), ValueType.FLOAT32),
    "min_p": (("min_p",), ValueType.FLOAT32),
    "xtc_probability": (("xtc_probability",), ValueType.FLOAT32),
    "xtc_threshold": (("xtc_threshold",), ValueType.FLOAT32),
    "temp": (("temperature",), ValueType.FLOAT32),
    "penalty_last_n": (("penalty_last_n",), ValueType.INT32),
    "penalty_repeat": (("penalty_repeat", "repetition_penalty"), ValueType.FLOAT32),
    "mirostat": (("mirostat",), ValueType.INT32),
    "mirostat_tau": (("mirostat_tau",), ValueType.FLOAT32),
    "mirostat_eta": (("mirostat_eta",), ValueType.FLOAT32),
}
# general.* -> keys of a model card, the first of which counts.
_CARD: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "description": ("description", "model_description"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "size_label": ("size_label", "model_size_label"),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
}
_LISTS: Mapping[str, tuple[str, ...]] = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}
_RELATED: Mapping[str, tuple[str, ...]] = {
    "base_model": ("base_model", "base_models", "base_model_sources"),
    "dataset": ("datasets", "dataset", "dataset_sources"),
}
_OF_RELATED = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
#: The keys of a model card that there is a place for.
CARD_KEYS = frozenset(
    ("license", *(key for table in (_CARD, _LISTS, _RELATED) for keys in table.values() for key in keys))
)


def general(
    architecture: str,
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    recipe: Recipe,
    generation_config: Mapping[str, Any],
    card: Mapping[str, Any],
    name: str | None = None,
    called: object = None,
) -> dict[str, Any]:
    """The ``general.*`` keys of a file of tensors of these ``shapes``. ``source`` is a Hub id or folder name, ``card``
    what `checkpoint.card` reads, ``called`` the ``_name_or_path`` of config.json.

    CheckpointError where the model has no name in UTF-8.
    """
    parameters = sum(map(prod, shapes.values()))
    ids = [source] if "/" in source else [*_path_of_model(called), source]
    parts = [parse(each, parameters) for each in ids]
    said = {key: value for key, keys in _CARD.items() if (value := _text(card, keys)) is not None}
    found = {**_first(parts), **said}
    named = name or found.get("name") or source
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "general.type": "model",
        **{f"general.{key}": value for key, value in found.items()},
        "general.name": _utf8(named),
        "general.size_label": found.get("size_label") or size_label(shapes),
    }
    if "/" in source:
        metadata.setdefault("general.source.repo_url", f"{HUB}/{source}")
    if license := card.get("license"):
        metadata["general.license"] = ",".join(map(_plain, license)) if isinstance(license, list) else _plain(license)
    for key, keys in _LISTS.items():
        if values := [_plain(each) for k in keys for each in _listed(card.get(k))]:
            metadata[f"general.{key}"] = values
    for kind, keys in _RELATED.items():
        metadata |= _related(kind, _listed(next((card[key] for key in keys if key in card), None)), parameters)
    metadata |= _sampling(generation_config)
    metadata["general.file_type"] = recipe.file_type
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    return metadata


def _path_of_model(called: object) -> list[str]:
    """``_name_or_path`` where it names a model, and no place on somebody's disk."""
    is_text = isinstance(called, str) and called == called.encode(errors="ignore").decode()
    return [str(called)] if is_text and str(called).count("/") <= 1 and str(called).strip("./") else []


def _first(parts: Iterable[Names]) -> dict[str, str]:
    """What the names say, the first that says anything, the name and its maker as titles."""
    found: dict[str, str] = {}
    for each in parts:
        for key, value in each._asdict().items():
            if value:
                found.setdefault(key, title(value) if key in ("name", "organization") else value)
    return found


def _text(card: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((card[key] for key in keys if isinstance(card.get(key), str)), None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _plain(value: Any) -> str:
    """An entry of a list as a text: "a: b" of a mapping, which is what an entry with a colon in it becomes."""
    return ", ".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)[:1000]


def _related(kind: str, entries: Sequence[Any], parameters: int) -> dict[str, Any]:
    """The keys of the models or data sets that a model was made from: ids of the Hub, URLs, or all that is known."""
    if not entries:
        return {}
    keys: dict[str, Any] = {f"general.{kind}.count": len(entries)}
    for number, entry in enumerate(entries):
        known = entry if isinstance(entry, dict) else _of_id(str(entry), parameters)
        texts = {key: known[key] for key in _OF_RELATED if isinstance(known.get(key), str)}
        keys |= {f"general.{kind}.{number}.{key}": value for key, value in texts.items()}
    return keys


def _of_id(entry: str, parameters: int) -> dict[str, str]:
    is_url = entry.startswith(("http://", "https://", "ssh://"))
    of_hub = re.fullmatch(r"https?://huggingface\.co/([^/]+/[^/]+)", entry)
    if is_url and of_hub is None:
        return {"repo_url": entry}
    parts = parse(of_hub[1] if of_hub else entry, parameters)
    found = _first([parts])
    url = entry if is_url else f"{HUB}/{parts.organization}/{parts.name}" if parts.organization and parts.name else None
    return {
        **{key: found[key] for key in ("name", "organization", "version") if key in found},
        **({"repo_url": url} if url else {}),
    }


def _sampling(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of generation_config.json that GGUF has, of the kind that they must be of."""
    found = {}
    for target, (key, value, kind) in _settings(generation_config).items():
        if _misfit(value, kind):
            continue
        if kind is not ValueType.STRING and not abs(value) < 3e38:
            raise CheckpointError(
                "setting for sampling is not a number that GGUF can say",
                field=f"generation_config.json: {key}",
                expected="a finite number within float32",
                got=repr(value)[:60],
            )
        found[f"general.sampling.{target}"] = Typed(int(value) if kind is ValueType.INT32 else value, kind)
    return found


def unused_settings(generation_config: Mapping[str, Any]) -> list[str]:
    """What to say of settings of generation_config.json that GGUF has and that are left out of the file."""
    settings = _settings(generation_config).values()
    misfits = ((key, value, _misfit(value, kind)) for key, value, kind in settings)
    return [
        f"generation_config.json: {key} is left out; expected {expected}, got {value!r:.60}"
        for key, value, expected in misfits
        if expected
    ]


def _settings(generation_config: Mapping[str, Any]) -> dict[str, tuple[str, Any, ValueType]]:
    """What is set, by GGUF's name: the key, its value, the type that GGUF has for it."""
    stated = {
        target: (next((key for key in keys if generation_config.get(key) is not None), None), kind)
        for target, (keys, kind) in _SAMPLING.items()
    }
    return {target: (key, generation_config[key], kind) for target, (key, kind) in stated.items() if key is not None}


def _misfit(value: Any, kind: ValueType) -> str:
    """What a setting of a type has to be, where a value is not that; otherwise empty."""
    if kind is ValueType.STRING:
        return "" if isinstance(value, str) else "a text"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    if kind is ValueType.INT32 and abs(value) < 3e38 and not (value == int(value) and -(2**31) <= value < 2**31):
        return "a whole number within int32"
    return ""


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            "the model's name is not UTF-8",
            field="general.name",
            got=readable(name),
            remedy="name it by `name`",
        ) from None
    return name


def readable(text: str) -> str:
    """A text in UTF-8: bytes of a file's name that are none are replaced."""
    return os.fsencode(text).decode("utf-8", "replace")


def provenance(
    source: str, recipe: Recipe, selection: Selection, imatrix: str | None, revision: str | None = None
) -> dict[str, Any]:
    """Where the file came from and how: enough to make the same bytes again. No paths, dates or host names."""
    metadata: dict[str, Any] = {
        "gguflike.version": gguflike.__version__,
        "gguflike.source": readable(source),
        "gguflike.recipe": recipe.name,
    }
    if revision:
        metadata["gguflike.source.revision"] = revision
    if selection.texts:
        metadata["gguflike.recipe.overrides"] = list(selection.texts)
    if options := selection.options():
        metadata["gguflike.recipe.options"] = options
    if imatrix:
        metadata["gguflike.imatrix"] = readable(imatrix)
    return metadata
