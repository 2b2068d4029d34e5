"""The side of config.json of typed hyper-parameters: read into a configuration, and written from one.

Apart from config.py, since a run of a model reads no config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from gguflike.families import rope_settings
from gguflike.families.config import REQUIRED, Parameter, made, named, parameters

Config = TypeVar("Config")


def config_keys(config: type) -> set[str]:
    """The keys of config.json that a configuration reads, those of objects by the objects' names."""
    return {
        name if name.startswith("rope.") else name.partition(".")[0]
        for p in parameters(config)
        for name in p.key.config
    }


def from_config(
    config: type[Config], values: Mapping[str, Any], holds: Callable[[str], bool] = lambda _: False
) -> Config:
    """A configuration from config.json. CheckpointError where a value is missing or of the wrong kind.

    ``holds(tensor)`` says whether the checkpoint has what a tensor of GGUF comes from.
    """
    flat = {**values, **_rope_entries(config, rope_settings.flatten(values, config_keys(config)))}

    def value(parameter: Parameter, known: SimpleNamespace) -> Any:
        key = parameter.key
        if key.tensor and not key.config and key.default is REQUIRED:
            return holds(named(key, known))
        found = next((v for v in (_looked_up(flat, name) for name in key.config) if v is not None), None)
        if found is not None and key.via is not None:
            return key.via.read(known, found)
        return not found if key.negated and isinstance(found, bool) else found

    def error(parameter: Parameter) -> GGUFLikeError:
        return CheckpointError("", field=f"config.json: {(*parameter.key.config, parameter.name)[0]}")

    return made(config, value, error)


def _rope_entries(config: type, flat: dict[str, Any]) -> dict[str, Any]:
    """The entries, of which each must be read: UnsupportedError for a setting that the configuration does not have."""
    for name in flat.keys() - config_keys(config):
        raise UnsupportedError(
            "rope setting that models of this class are not known to have",
            field=f"config.json: {name}",
            got=repr(flat[name])[:120],
        )
    return flat


def _looked_up(values: Mapping[str, Any], name: str) -> Any:
    """The value of a key, or of one in an object: "a.b" is ``values["a"]["b"]`` unless there is a key "a.b"."""
    outer, dot, inner = name.partition(".")
    if name in values or not dot:
        return values.get(name)
    return _looked_up(values[outer], inner) if isinstance(values.get(outer), dict) else None


def to_config(config: Any) -> dict[str, Any]:
    """The part of config.json that the fields say. Inverse of `from_config`."""
    flat: dict[str, Any] = {}
    for parameter in parameters(type(config)):
        value, key = getattr(config, parameter.name), parameter.key
        if key.via is not None:
            value = key.via.write(config)
        if not key.config or value is None:
            continue
        if isinstance(value, tuple | list):
            value = [_shortest(each) if isinstance(each, float) else each for each in value]
        elif isinstance(value, float):
            value = _shortest(value)
        flat[key.config[0]] = not value if key.negated else value
    plain = {k: v for k, v in flat.items() if not k.startswith("rope.")}
    return {**_nested(plain), **(rope_settings.unflatten(flat) if "rope.theta" in flat else {})}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with dots as objects: the opposite of `_looked_up`."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        at = made
        for each in outer:
            at = at.setdefault(each, {})
        at[last] = value
    return made


def _shortest(value: float) -> float:
    """The shortest decimal that a float32 in GGUF stands for: 1e-05, not 9.999999747378752e-06."""
    single = np.float32(value)
    return float(str(single)) if single == value else value
