"""Typed hyper-parameters: what each is called in config.json and in GGUF, read from either and written to either.

A configuration is a frozen dataclass whose fields are made by `key`:

    @dataclass(frozen=True)
    class Decoder:
        n_layer: int = key("block_count", "num_hidden_layers")
        head_dim: int = key("attention.key_length", "head_dim", default=lambda c: c.n_embd // c.n_head)

The annotation says what kind of value it is: ``int``, ``float`` (both positive), ``str`` or ``bool``; ``| None`` makes
it optional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, fields, replace
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gguflike.errors import CheckpointError, GGUFError, GGUFLikeError
from gguflike.families import rope

Config = TypeVar("Config")
Default = Callable[[Any], Any]

_LIMIT = 2**31  # no size of a real model comes near; it keeps products of sizes within 64 bits
_REQUIRED: Any = object()
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class Key(NamedTuple):
    """What a field is called: below ``<architecture>.`` in GGUF, and in config.json.

    A GGUF key that begins with ``gguflike.`` stands as it is. Config keys that begin with ``rope.`` are the flattened
    form that rope.py makes. ``copies`` are further GGUF keys that carry the same value. ``tensor`` names a GGUF tensor
    whose presence tells a boolean that GGUF does not store. ``negated``: config.json stores the opposite.
    """

    gguf: str | None
    config: str | None
    default: Any
    copies: tuple[str, ...]
    tensor: str | None
    negated: bool


class Parameter(NamedTuple):
    """A field of a configuration."""

    name: str
    key: Key
    kind: type
    optional: bool


def key(
    gguf: str | None,
    config: str | None,
    *,
    default: Any = _REQUIRED,
    copies: tuple[str, ...] = (),
    tensor: str | None = None,
    negated: bool = False,
) -> Any:
    """A field of a configuration (see `Key`).

    ``default`` is the value, or a function of the fields above it, that Transformers and llama.cpp assume where the key
    is missing. A field without one is required unless its annotation admits None.
    """
    return field(metadata={"key": Key(gguf, config, default, copies, tensor, negated)})


def parameters(config: type) -> tuple[Parameter, ...]:
    """The fields of a configuration, in order."""
    return tuple(Parameter(f.name, f.metadata["key"], *_kind(str(f.type))) for f in fields(config))


def _kind(annotation: str) -> tuple[type, bool]:
    """(the type, whether None is admitted) of an annotation. KeyError for one that a configuration cannot have."""
    kind, _, none = annotation.partition(" | ")
    return _KINDS[kind], none == "None"


def config_keys(config: type) -> set[str]:
    """The keys of config.json that a configuration reads."""
    return {parameter.key.config for parameter in parameters(config) if parameter.key.config}


def from_config(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from config.json. CheckpointError where a value is missing or of the wrong kind."""
    flat = {**{k: v for k, v in values.items() if k not in rope.CONFIG_KEYS}, **rope.flatten(values)}

    def value(parameter: Parameter) -> Any:
        found = flat.get(parameter.key.config) if parameter.key.config else None
        return not found if parameter.key.negated and isinstance(found, bool) else found

    return _made(config, value, lambda p: CheckpointError("", field=f"config.json: {p.key.config or p.name}"))


def from_gguf(config: type[Config], architecture: str, metadata: Mapping[str, Any], tensors: Collection[str]) -> Config:
    """A configuration from a GGUF file's metadata and its tensors' names. GGUFError if missing or malformed."""

    def value(parameter: Parameter) -> Any:
        if parameter.key.tensor:
            return parameter.key.tensor in tensors
        found = _scalar(metadata.get(full_key(architecture, parameter.key.gguf))) if parameter.key.gguf else None
        if found is None and parameter.name == "n_vocab" and "tokenizer.ggml.tokens" in metadata:
            return len(metadata["tokenizer.ggml.tokens"])
        return None if parameter.name == "rope_scaling" and found == "none" else found

    def error(parameter: Parameter) -> GGUFLikeError:
        gguf = parameter.key.gguf
        return GGUFError("", field=full_key(architecture, gguf) if gguf else parameter.name)

    return _made(config, value, error)


def _scalar(value: Any) -> Any:
    """One number for all layers, where a file gives an array of equal ones."""
    if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
        return value.flat[0].item()
    return value


def full_key(architecture: str, key: str) -> str:
    """The key in a file of a `Key.gguf`."""
    return key if key.startswith("gguflike.") else f"{architecture}.{key}"


def _made(
    config: type[Config], value: Callable[[Parameter], Any], error: Callable[[Parameter], GGUFLikeError]
) -> Config:
    """The configuration of checked values. ``error`` gives the type and the place of a complaint."""
    known = SimpleNamespace()
    for parameter in parameters(config):
        found = value(parameter)
        if found is None:
            found = _default(parameter, known, error(parameter))
        elif parameter.kind in (int, float):
            found = _number(parameter.kind, found, error(parameter))
        elif not isinstance(found, parameter.kind):
            kind, place = parameter.kind.__name__, error(parameter)
            raise type(place)("wrong kind of value", field=place.field, expected=kind, got=repr(found))
        setattr(known, parameter.name, found)
    return config(**vars(known))


def _default(parameter: Parameter, known: SimpleNamespace, error: GGUFLikeError) -> Any:
    default = parameter.key.default
    if default is _REQUIRED:
        if parameter.optional:
            return None
        raise type(error)("required value is missing", field=error.field)
    return default(known) if callable(default) else default


def _number(kind: type, value: Any, error: GGUFLikeError) -> int | float:
    number = not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf
    if not number or (kind is int and (value >= _LIMIT or value != int(value))):
        expected = "a positive integer below 2**31" if kind is int else "a positive number"
        raise type(error)("wrong kind of value", field=error.field, expected=expected, got=repr(value)[:80])
    return int(value) if kind is int else float(value)


def to_metadata(config: Any, architecture: str) -> dict[str, Any]:
    """The ``<architecture>.*`` keys of a GGUF file."""
    metadata: dict[str, Any] = {}
    for parameter in parameters(type(config)):
        value = getattr(config, parameter.name)
        if parameter.key.gguf and value is not None:
            metadata |= {full_key(architecture, k): value for k in (parameter.key.gguf, *parameter.key.copies)}
    return metadata


def to_config(config: Any) -> dict[str, Any]:
    """The part of config.json that the fields say. Inverse of `from_config`."""
    flat: dict[str, Any] = {}
    for parameter in parameters(type(config)):
        value = getattr(config, parameter.name)
        if parameter.key.config and value is not None:
            value = _shortest(value) if parameter.kind is float else value
            flat[parameter.key.config] = not value if parameter.key.negated else value
    return {**{k: v for k, v in flat.items() if not k.startswith("rope.")}, **rope.unflatten(flat)}


def _shortest(value: float) -> float:
    """The shortest decimal that a float32 in GGUF stands for: 1e-05, not 9.999999747378752e-06."""
    single = np.float32(value)
    return float(str(single)) if single == value else value


def changed(config: Config, **values: Any) -> Config:
    """The configuration with some fields of other values."""
    return replace(config, **values)  # type: ignore[type-var]
