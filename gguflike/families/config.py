"""Typed hyper-parameters: what each is called in config.json and in GGUF, read from and written to GGUF.

config_json.py does so for config.json.

A configuration is a frozen record whose fields are made by `key`:

    @frozen
    class Decoder:
        n_layer: int = key("block_count", "num_hidden_layers")
        head_dim: int = key("attention.key_length", "head_dim", default=lambda c: c.n_embd // c.n_head)

The annotation says what kind of value it is: ``int``, ``float`` (both positive), ``str`` or ``bool``; ``| None`` makes
it optional. ``tuple[int, ...]`` and its like hold a value for each layer, which files may say once for all, or as many
as the key says; their numbers may be 0, and so may those of keys that say ``zero``; those of keys that say ``signed``
may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gguflike.errors import GGUFError, GGUFLikeError, UnsupportedError, counted
from gguflike.families.inert import FILE_KEYS
from gguflike.families.parts import role_of
from gguflike.frozen import About, fields, frozen, replace

Config = TypeVar("Config")

_LIMIT = 2**31  # no size of a real model comes near; it keeps products of sizes within 64 bits
#: More of what is made one by one no model has: layers, and experts and heads whose tensors are put together.
COUNTED = 2**14
_COUNTS = frozenset({"block_count", "expert_count", "attention.head_count", "ssm.time_step_rank"})
LARGEST = 3.4e38  # that a float32 holds, as which GGUF stores numbers
#: Where a model of several kinds of input keeps the configuration of its text model.
NESTED = ("text_config", "llm_config", "language_config")
REQUIRED: Any = object()
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class Via(NamedTuple):
    """How the value of a field is said in files where it is not said as it is.

    ``read(c, value)`` gives the field's value from that of config.json, and ``parse(c, value)`` from that of GGUF;
    ``c`` has the fields above it. Both raise ValueError, with what was expected, on a value that has no meaning.
    ``write(c)`` gives what an exported config.json says; None: nothing.
    """

    read: Callable[[Any, Any], Any]
    write: Callable[[Any], Any]
    parse: Callable[[Any, Any], Any] = lambda _, value: value


@frozen
class Key(About):
    """What a field is called: below ``<architecture>.`` in GGUF, and in config.json.

    A GGUF key that begins with ``gguflike.``, ``tokenizer.`` or ``xielu.`` stands as it is. In config.json the first of
    the names that is there counts (an export writes the first); a dot leads into an object; those that begin with
    ``rope.`` are the flattened form of rope_settings.py. ``copies`` are further GGUF keys that carry the same value.
    ``tensor`` names a GGUF tensor (or a function of the fields above, its name) whose presence tells a boolean that
    GGUF does not store, and config.json neither where it has no name there. ``negated``: config.json stores the
    opposite. ``zero``: numbers may be 0; ``signed``: they may be negative, too. ``array``: GGUF always has a value for
    each layer, even where all are alike. ``listed``: a list of any length, that has nothing to do with layers.
    ``implied``: GGUF lacks the key where the value is the default (and the configuration says so). ``via`` translates.
    """

    gguf: str | None
    config: tuple[str, ...]
    default: Any
    copies: tuple[str, ...]
    tensor: str | Callable[[Any], str] | None
    negated: bool
    zero: bool
    signed: bool
    array: bool
    listed: bool
    implied: bool | Callable[[Any], bool]
    via: Via | None


class Parameter(NamedTuple):
    """A field of a configuration. ``many``: it has several values of ``kind``, for each layer or as the key says."""

    name: str
    key: Key
    kind: type
    many: bool
    optional: bool


def key(
    gguf: str | None,
    config: str | tuple[str, ...] | None,
    *,
    default: Any = REQUIRED,
    copies: tuple[str, ...] = (),
    tensor: str | Callable[[Any], str] | None = None,
    negated: bool = False,
    zero: bool = False,
    signed: bool = False,
    array: bool = False,
    listed: bool = False,
    implied: bool | Callable[[Any], bool] = False,
    via: Via | None = None,
) -> Any:
    """A field of a configuration (see `Key`).

    ``default`` is the value, or a function of the fields above it, that Transformers and llama.cpp assume where the key
    is missing. A field without one is required unless its annotation admits None.
    """
    names = (config,) if isinstance(config, str) else config or ()
    return Key(
        gguf=gguf,
        config=names,
        default=default,
        copies=copies,
        tensor=tensor,
        negated=negated,
        zero=zero,
        signed=signed,
        array=array,
        listed=listed,
        implied=implied,
        via=via,
    )


_known: dict[type, tuple[Parameter, ...]] = {}


def parameters(config: type) -> tuple[Parameter, ...]:
    """The fields of a configuration, in order."""
    if config not in _known:
        made = (Parameter(name, getattr(config, name), *_kind(kind)) for name, kind in fields(config).items())
        _known[config] = tuple(made)
    return _known[config]


def _kind(annotation: str) -> tuple[type, bool, bool]:
    """(the type, whether there are several, whether None is admitted) of an annotation. KeyError for one that
    a configuration cannot have."""
    kind, _, none = annotation.partition(" | ")
    one = kind.removeprefix("tuple[").removesuffix(", ...]")
    return _KINDS[one], one != kind, none == "None"


def named(key: Key, known: Any) -> str:
    """The tensor whose presence tells."""
    assert key.tensor is not None
    return key.tensor if isinstance(key.tensor, str) else key.tensor(known)


def from_gguf(config: type[Config], architecture: str, metadata: Mapping[str, Any], tensors: Collection[str]) -> Config:
    """A configuration from a GGUF file's metadata and its tensors' names. GGUFError if missing or malformed."""
    behind = layers_left_out(architecture, metadata)

    def value(parameter: Parameter, known: SimpleNamespace) -> Any:
        if parameter.key.tensor:
            return named(parameter.key, known) in tensors
        found = metadata.get(full_key(architecture, parameter.key.gguf)) if parameter.key.gguf else None
        if not parameter.many:
            found = _scalar(found)
        elif isinstance(found, np.ndarray):
            found = found.tolist()
            if behind and not parameter.key.listed and len(found) == known.n_layer + behind:
                del found[-behind:]
        if parameter.name in _READINGS:
            found = _READINGS[parameter.name](found, architecture, metadata, tensors)
        if found is not None and parameter.key.via is not None:
            found = parameter.key.via.parse(known, found)
        return found

    def error(parameter: Parameter) -> GGUFLikeError:
        gguf = parameter.key.gguf
        return GGUFError("", field=full_key(architecture, gguf) if gguf else parameter.name)

    return made(config, value, error)


def layers_left_out(architecture: str, metadata: Mapping[str, Any]) -> int:
    """How many of the layers that a file counts come behind the others to predict further tokens."""
    count = metadata.get(f"{architecture}.nextn_predict_layers", 0)
    return count if isinstance(count, int) else 0


def _layers(found: Any, architecture: str, metadata: Mapping[str, Any], _: Collection[str]) -> Any:
    """The layers that a text goes through."""
    return found - layers_left_out(architecture, metadata) if type(found) is int else found


def _vocabulary(found: Any, _: str, metadata: Mapping[str, Any], __: Collection[str]) -> Any:
    """As many tokens as the tokenizer has, where a file says fewer or nothing: it was given some after the fact."""
    key = "tokenizer.ggml.tokens"
    # A file's metadata counts what it need not decode: the largest thing there is.
    head = getattr(metadata, "head", lambda key, _: metadata[key])
    given = head(key, 1) if key in metadata else ()
    if isinstance(given, str) or not isinstance(given, Sized):
        raise GGUFError("wrong kind of value", field=key, expected="an array of texts", got=repr(given)[:80])
    count = getattr(metadata, "count_of", lambda _: len(given))(key) if key in metadata else 0
    return max(found or 0, count) or None if found is None or isinstance(found, int) else found


def _rope_factor(found: Any, architecture: str, metadata: Mapping[str, Any], _: Collection[str] = ()) -> Any:
    """The factor by which positions are stretched, which old files call otherwise."""
    return metadata.get(f"{architecture}.rope.scale_linear") if found is None else found


def _rope_scaling(found: Any, architecture: str, metadata: Mapping[str, Any], _: Collection[str]) -> Any:
    """How positions are stretched: linearly, where a file has a factor and does not say."""
    if found is None:
        key = f"{architecture}.rope.scaling.factor"
        factor = _scalar(_rope_factor(metadata.get(key), architecture, metadata))
        return "linear" if factor not in (None, 0, 1) else None
    return None if found == "none" else found


def _dense_lead(found: Any, _: str, __: Mapping[str, Any], tensors: Collection[str]) -> Any:
    """The layers before the first that has a router of experts, where a file does not say how many."""
    if found is not None:
        return found
    layers = (layer for role, layer in map(role_of, tensors) if role == "ffn_gate_inp" and layer is not None)
    return min(layers, default=None)


# Fields whose values in files mean something else than they say, or something where they are missing.
_READINGS: Mapping[str, Callable[[Any, str, Mapping[str, Any], Collection[str]], Any]] = {
    "n_layer": _layers,
    "n_vocab": _vocabulary,
    "n_dense": _dense_lead,
    "rope_factor": _rope_factor,
    "rope_scaling": _rope_scaling,
}


def check_keys(
    config: Any, architecture: str, metadata: Mapping[str, Any], implied: Mapping[str, tuple[Any, ...] | None]
) -> None:
    """UnsupportedError where a GGUF file says of its model what the configuration does not hold.

    ``implied`` has the keys whose meaning the graph includes, and the values for which it does (None: any value).
    """
    for key, value, allowed in unread(config, architecture, metadata, implied):
        raise _unread(key, value, allowed)


def unread(
    config: Any, architecture: str, metadata: Mapping[str, Any], implied: Mapping[str, tuple[Any, ...] | None]
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """What a GGUF file says of its model and the configuration does not hold: key, value, and the values that it holds.
    ``implied`` as of `check_keys`."""
    known: set[str | None] = set()
    for parameter in parameters(type(config)):
        known |= {parameter.key.gguf, *parameter.key.copies}
        for name in parameter.key.copies:
            value, here = metadata.get(full_key(architecture, name)), getattr(config, parameter.name)
            if value is not None and not _close(value, here):
                yield full_key(architecture, name), value, (here,)
    if "rope.scaling.factor" in known:
        known.add("rope.scale_linear")
    beginning = f"{architecture}."
    for key in metadata:  # and no values but those asked for, which are decoded
        name = key.removeprefix(beginning)
        if name == key or name in known:
            continue
        allowed = implied.get(name, FILE_KEYS.get(name, ()))
        if allowed is not None and _scalar(metadata[key]) not in allowed:
            yield key, metadata[key], allowed


def _close(value: Any, other: Any) -> bool:
    """Whether a value of a file is the number, or are the numbers, that another of its keys gave."""
    given = np.asarray(value)
    return given.dtype.kind in "iufb" and bool(np.allclose(given, other, rtol=1e-6, atol=0))


def _unread(key: str, value: Any, allowed: tuple[Any, ...]) -> UnsupportedError:
    return UnsupportedError(
        "the file asks for what this version does not compute with models of its architecture",
        field=key,
        expected=" or ".join(map(repr, allowed)) or "no such key",
        got=repr(value)[:80],
    )


def _scalar(value: Any) -> Any:
    """One number for all layers, where a file gives an array of equal ones; other arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.flat[0].item() if value.size and (value == value.flat[0]).all() else value.tolist()
    return value


def full_key(architecture: str, key: str) -> str:
    """The key in a file of a `Key.gguf`."""
    return key if key.startswith(("gguflike.", "tokenizer.", "xielu.")) else f"{architecture}.{key}"


def made(
    config: type[Config],
    value: Callable[[Parameter, SimpleNamespace], Any],
    error: Callable[[Parameter], GGUFLikeError],
) -> Config:
    """The configuration of checked values. ``error`` gives the type and the place of a complaint."""
    known = SimpleNamespace()
    for parameter in parameters(config):
        place = error(parameter)
        try:
            found = value(parameter, known)
        except ValueError as expected:
            raise type(place)("wrong kind of value", field=place.field, expected=str(expected)) from None
        if found is None:
            found = _default(parameter, known, place)
        if parameter.many and found is not None:
            found = _several(parameter, found, known, place)
        elif found is not None:
            found = _checked(parameter, found, place)
        setattr(known, parameter.name, found)
    return config(**vars(known))


def _several(parameter: Parameter, value: Any, known: SimpleNamespace, place: GGUFLikeError) -> tuple[Any, ...]:
    """A value for each layer, as given or one for all; or a list."""
    listed = parameter.key.listed
    many = value if isinstance(value, list | tuple) else [value] * (1 if listed else known.n_layer)
    if not listed and len(many) != known.n_layer:
        raise type(place)(
            "not one value for each layer", field=place.field, expected=counted(known.n_layer, "value"), got=len(many)
        )
    return tuple(_checked(parameter, each, place) for each in many)


def _checked(parameter: Parameter, value: Any, place: GGUFLikeError) -> Any:
    if parameter.kind in (int, float):
        if parameter.key.signed:
            return _signed(value, place)
        limit = COUNTED if parameter.key.gguf in _COUNTS or parameter.name == "n_labels" else _LIMIT
        return _number(parameter.kind, value, parameter.key.zero or parameter.many, place, limit)
    if not isinstance(value, parameter.kind):
        raise type(place)(
            "wrong kind of value", field=place.field, expected=parameter.kind.__name__, got=repr(value)[:80]
        )
    return value


def _default(parameter: Parameter, known: SimpleNamespace, error: GGUFLikeError) -> Any:
    default = parameter.key.default
    if default is REQUIRED:
        if parameter.optional:
            return None
        raise type(error)("required value is missing", field=error.field)
    return default(known) if callable(default) else default


def _number(kind: type, value: Any, zero: bool, error: GGUFLikeError, limit: int = _LIMIT) -> int | float:
    number = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= LARGEST
    if not number or (value == 0 and not zero) or (kind is int and (value >= limit or value != int(value))):
        below = "2**31" if limit == _LIMIT else str(limit)
        expected = f"a positive integer below {below}" if kind is int else "a positive number"
        expected += " or 0" if zero else ""
        raise type(error)("wrong kind of value", field=error.field, expected=expected, got=repr(value)[:80])
    return int(value) if kind is int else float(value)


def _signed(value: Any, error: GGUFLikeError) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise type(error)("wrong kind of value", field=error.field, expected="a number", got=repr(value)[:80])
    return float(value)


def to_metadata(config: Any, architecture: str) -> dict[str, Any]:
    """The ``<architecture>.*`` keys of a GGUF file."""
    metadata: dict[str, Any] = {}
    for parameter in parameters(type(config)):
        value, key = getattr(config, parameter.name), parameter.key
        if not key.gguf or value is None or _is_implied(parameter, value, config):
            continue
        if parameter.many:
            alike = not (key.array or key.listed) and len(set(value)) == 1
            value = value[0] if alike else [*value, *([] if key.listed else _of_heads(config, parameter.name))]
        elif parameter.name == "n_layer":
            value += _behind(config)
        metadata |= {full_key(architecture, k): value for k in (key.gguf, *key.copies)}
    return metadata


def _of_heads(config: Any, field: str) -> list[Any]:
    """What a file says of the layers behind those that a text goes through."""
    behind = _behind(config)
    said = config.of_head(field) if behind else None
    return [] if said is None else [said] * behind


def _behind(config: Any) -> int:
    """How many layers a file counts behind those that a text goes through: the opposite of `layers_left_out`."""
    return getattr(config, "n_mtp", 0)


def _is_implied(parameter: Parameter, value: Any, config: Any) -> bool:
    """Whether a file without the key stands for the value."""
    key = parameter.key
    if not (key.implied(config) if callable(key.implied) else key.implied):
        return False
    default = key.default(config) if callable(key.default) else key.default
    same: bool = value == (
        (default,) * config.n_layer if parameter.many and not isinstance(default, tuple) else default
    )
    return same


def changed(config: Config, **values: Any) -> Config:
    """The configuration with some fields of other values."""
    return replace(config, **values)
