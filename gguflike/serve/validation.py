"""The part of JSON Schema by which requests are described, and checked: the same lines do both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gguflike.serve.errors import ApiError, refused

Schema = Mapping[str, Any]

_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and _is_whole(value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_ARTICLES = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def checked(value: Any, schema: Schema, where: str) -> Any:
    """``value``, whole numbers as int, if it is as ``schema`` says. 400 that names the place otherwise.

    Of JSON Schema this knows type, enum, the four limits of numbers, minLength, items, minItems, maxItems, properties,
    required, additionalProperties (a schema) and anyOf; ``title`` and the like are for readers. A property that may be
    left out is so where it is null, as many clients write it (`nullable`).
    """
    if "anyOf" in schema:
        return _one_of(value, schema["anyOf"], where)
    kinds = schema.get("type")
    if kinds is not None:
        allowed = [kinds] if isinstance(kinds, str) else list(kinds)
        fitting = [kind for kind in allowed if _KINDS[kind](value)]
        if not fitting:
            raise refused(where, f"expected {' or '.join(map(_article, allowed))}, got {shown(value)}")
        if fitting[0] == "integer":
            value = int(value)
    if "enum" in schema and value not in schema["enum"]:
        raise refused(where, f"expected one of {', '.join(map(shown, schema['enum']))}; got {shown(value)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _limits(value, schema, where)
    elif isinstance(value, str) and len(value) < schema.get("minLength", 0):
        raise refused(where, f"expected at least {schema['minLength']} characters, got {shown(value)}")
    elif isinstance(value, list):
        return _array(value, schema, where)
    elif isinstance(value, dict):
        return _object(value, schema, where)
    return value


def _one_of(value: Any, schemas: list[Schema], where: str) -> Any:
    """Checked by the first schema that takes it; the error is that of the one which comes nearest."""
    for schema in schemas:
        with suppress(ApiError):  # kept, it would keep all that this was called with
            return checked(value, schema, where)
    nearest = max(schemas, key=lambda schema: _fitting(value, schema))
    if _fitting(value, nearest):
        return checked(value, nearest, where)  # which says why not
    kinds = " or ".join(dict.fromkeys(map(_article, _kinds({"anyOf": schemas}))))
    raise refused(where, f"expected {kinds}, got {shown(value)}")


def _kinds(schema: Schema) -> list[str]:
    """The types of which a value may be."""
    if "anyOf" in schema:
        return [kind for each in schema["anyOf"] for kind in _kinds(each)]
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _fitting(value: Any, schema: Schema) -> int:
    """How deep the types fit: of the value, of its first item, and so on."""
    if "anyOf" in schema:
        return max(_fitting(value, each) for each in schema["anyOf"])
    if not any(_KINDS[kind](value) for kind in _kinds(schema)):
        return 0
    items = schema.get("items")
    return 1 + (_fitting(value[0], items) if isinstance(value, list) and value and items is not None else 0)


def _limits(value: float, schema: Schema, where: str) -> None:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    if not (low <= value <= high and above < value < below):  # NaN is in no range
        bounds = [
            text
            for limit, text in (
                (low, f"at least {low}"),
                (above, f"above {above}"),
                (high, f"at most {high}"),
                (below, f"below {below}"),
            )
            if math.isfinite(limit)
        ]
        raise refused(where, f"out of range: expected {', '.join(bounds) or 'a finite number'}; got {shown(value)}")


def _array(values: list[Any], schema: Schema, where: str) -> list[Any]:
    low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not low <= len(values) <= high:
        limit = f"at least {low}" if len(values) < low else f"at most {high}"
        raise refused(where, f"expected {limit} items, got {len(values)}")
    items = schema.get("items")
    if items is None:
        return values
    return [checked(value, items, f"{where}[{place}]") for place, value in enumerate(values)]


def _object(values: dict[str, Any], schema: Schema, where: str) -> dict[str, Any]:
    """What there is comes first: the kind of a thing says more of what is wrong than a property that it lacks."""
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    made = {}
    for name, value in values.items():
        known = properties.get(name, others if isinstance(others, Mapping) else None)
        if value is None and name in _optional(schema):
            continue
        made[name] = value if known is None else checked(value, known, f"{where}.{name}" if where else name)
    for name in schema.get("required", ()):
        if name not in values:
            raise refused(f"{where}.{name}" if where else name, "required, but missing")
    return made


def _optional(schema: Schema) -> set[str]:
    """The properties that may be left out, and so may be null."""
    return set(schema.get("properties", ())).difference(schema.get("required", ()))


def nullable(schema: Schema) -> dict[str, Any]:
    """The schema for who reads it: here null may stand for a property that may be left out, which goes without
    saying; in JSON Schema it does not."""
    made = dict(schema)
    if "anyOf" in made:
        made["anyOf"] = [nullable(each) for each in made["anyOf"]]
    if "items" in made:
        made["items"] = nullable(made["items"])
    if "properties" in made:
        optional = _optional(schema)
        made["properties"] = {
            name: {"anyOf": [nullable(each), {"type": "null"}]} if name in optional else nullable(each)
            for name, each in made["properties"].items()
        }
    return made


def _article(kind: str) -> str:
    return _ARTICLES.get(kind, f"a {kind}")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
