"""What Transformers assumes for keys that config.json lacks, and which class of models its ``model_type`` means.

``assumed.json`` has the defaults of the configuration classes of Transformers; scripts/gen_assumed.py writes it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.errors import CheckpointError
from gguflike.families import kinds, rope_settings

# Of several classes with one configuration, what model_type alone means: the one that gives logits, or else states.
_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "Model")


class _Entry(NamedTuple):
    """One ``model_type``: other names of keys -> the keys, and the values of absent ones: its own, and instead of those
    of the text model inside."""

    names: Mapping[str, str]
    values: Mapping[str, Any]
    text: Mapping[str, Any]


class _Table(NamedTuple):
    """Classes -> the ``model_type`` of their configuration and of its text model's, and what these assume."""

    classes: Mapping[str, tuple[str, str]]
    types: Mapping[str, _Entry]


@functools.cache
def _table() -> _Table:
    found = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    types = {
        name: _Entry(entry.get("names", {}), entry["values"], entry.get("text", {}))
        for name, entry in found["types"].items()
    }
    return _Table({name: (whole, text) for name, (whole, text) in found["classes"].items()}, types)


def class_of_type(model_type: Any) -> str | None:
    """The class of models that a ``model_type`` means, if it is known."""
    classes = [name for name, (whole, _) in _table().classes.items() if whole == model_type]
    ends = (name for ending in _ENDINGS for name in classes if name.endswith(ending))
    return next(ends, None)


def other_class(model_class: str, model_type: Any) -> str | None:
    """The class that a ``model_type`` means, where it is of other models than those of a class."""
    table, other = _table(), class_of_type(model_type)
    own = table.classes.get(model_class)
    if own is None or other is None or model_type in own or table.classes[other][1] == own[1]:
        return None
    return other


def type_of_text(model_class: str) -> str | None:
    """The ``model_type`` that is assumed of the text model in one of a class, if the class is known."""
    return _table().classes.get(model_class, ("", None))[1]


def whole(model_class: str | None) -> Mapping[str, Any]:
    """What is assumed of the configuration around that of a text model."""
    kind, text = _table().classes.get(model_class or "", ("", ""))
    return {} if kind == text else _table().types[kind].values


def completed(
    values: Mapping[str, Any],
    model_class: str | None,
    synonyms: Iterable[Collection[str]],
    inert: Collection[str] = (),
) -> dict[str, Any]:
    """The configuration of a text model with its keys' own names, and with those that it lacks.

    ``model_class`` is of the model (around it), ``synonyms`` are names of which one is enough. CheckpointError where a
    value is of another kind than the one that is assumed of its key, unless the key is ``inert``.
    """
    table = _table()
    outer, inner = table.classes.get(model_class or "", ("", ""))
    said = values.get("model_type") if outer != inner else None  # a class that is no whole says it better
    kind = said if isinstance(said, str) and said in table.types else inner
    if kind not in table.types:
        return dict(values)
    names, defaults, _ = table.types[kind]
    if outer != kind:
        defaults = {**defaults, **table.types[outer].text}
    here = {names[key] if key in names and names[key] not in values else key: value for key, value in values.items()}
    kinds.check_like(here, defaults, inert)
    known = {name for group in synonyms if any(name in here for name in group) for name in group}
    known |= here.keys() | rope_settings.said(here)
    if "rope_parameters" in defaults and "rope_parameters" not in known:  # which have the base
        known |= rope_settings.CONFIG_KEYS - {"rope_parameters"}
    _check_rotation(here, defaults)
    return {**here, **{name: value for name, value in defaults.items() if name not in known}}


def _check_rotation(here: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """CheckpointError where a base is given without a type of rotation, which this class assumes to be a special one
    and other versions of Transformers a plain one."""
    kind = _special_rotation(defaults)
    if kind and rope_settings.has_base(here) and not rope_settings.has_settings(here):
        raise CheckpointError(
            "config.json does not say how positions are stretched",
            field="config.json: rope_parameters",
            expected=f"a rope_type beside the base (Transformers 5 assumes {kind!r})",
            remedy="add rope_parameters, with the rope_type and its numbers",
        )


def _special_rotation(defaults: Mapping[str, Any]) -> str | None:
    """The type of rotation that is assumed, if it is not the plain one."""
    settings = defaults.get("rope_parameters", {})
    kinds = (each.get("rope_type") for each in (settings, *settings.values()) if isinstance(each, dict))
    return next((kind for kind in kinds if kind not in (None, "default")), None)


def unassumed(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json that says of a plain rotation that it is plain, where another one would be assumed."""
    entry = _table().types.get(values.get("model_type", ""))
    special = entry is not None and _special_rotation(entry.values)
    if not special or "rope_theta" not in values or rope_settings.has_settings(values):
        return values
    plain = {"rope_type": "default", "rope_theta": values["rope_theta"]}
    others = {name: value for name, value in values.items() if name not in ("rope_theta", "rope_scaling")}
    return {**others, "rope_parameters": plain}
