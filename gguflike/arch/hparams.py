"""Hyper-parameters read from config.json or from GGUF metadata, and written to either."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from gguflike.arch import rope
from gguflike.arch.spec import ArchSpec, HParam, HParams
from gguflike.errors import CheckpointError, GGUFError, GGUFLikeError, UnsupportedError

_LIMIT = 2**31  # no size of a real model comes near; it keeps products of sizes within 64 bits


def from_config(spec: ArchSpec, config: Mapping[str, Any], ignore: Iterable[str] = ()) -> tuple[HParams, list[str]]:
    """Parameters of a checkpoint and what to tell the user about them.

    ``ignore`` names config keys to accept unread. UnsupportedError on a key or value that may change what the model
    computes, CheckpointError on missing or malformed ones.
    """
    full = {**spec.config_defaults, **config}
    _check_keys(spec, full, frozenset(ignore))
    flat = {**{k: v for k, v in full.items() if k not in rope.CONFIG_KEYS}, **rope.flatten(full)}
    h: dict[str, Any] = {}
    for row in spec.hparams:
        value = _config_value(row, flat)
        _set(h, row, value, CheckpointError("", field=f"config.json: {(row.config or row.name).lstrip('!')}"))
    return h, _apply_window(spec, full, h)


def _config_value(row: HParam, flat: Mapping[str, Any]) -> Any:
    if row.config is None:
        return None
    value = flat.get(row.config.lstrip("!"))
    return not value if row.config.startswith("!") and isinstance(value, bool) else value


def _check_keys(spec: ArchSpec, config: Mapping[str, Any], ignore: frozenset[str]) -> None:
    known = (
        {row.config.lstrip("!") for row in spec.hparams if row.config} | rope.CONFIG_KEYS | spec.config_inert | ignore
    )
    known |= {spec.window_key} if spec.window_key else set()
    for key, value in config.items():
        allowed = spec.config_values.get(key)
        if key in known or key.startswith("_") or value is None:
            continue
        if key == "quantization_config":
            raise UnsupportedError(
                "the checkpoint is quantized already",
                field=f"config.json: {key}",
                got=repr(value)[:120],
                remedy="convert the original, in bfloat16 or float32",
            )
        if allowed is None:
            raise UnsupportedError(
                f"config key that {spec.hf_names[0]} is not known to have",
                field=f"config.json: {key}",
                got=repr(value)[:120],
                remedy="if it does not change what the model computes, name it in ignore_config",
            )
        if value not in allowed:
            raise UnsupportedError(
                "config value", field=f"config.json: {key}", expected=" or ".join(map(repr, allowed)), got=repr(value)
            )


def _apply_window(spec: ArchSpec, config: Mapping[str, Any], h: dict[str, Any]) -> list[str]:
    """Within its window a model with sliding attention is one without: that much context is promised, no more."""
    window = config.get(spec.window_key) if spec.window_key else None
    if window is None or config.get("use_sliding_window") is False:
        return []
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise CheckpointError("sliding window is not a positive integer", field="config.json", got=repr(window))
    if window >= h["n_ctx"]:
        return []
    notice = f"context length {h['n_ctx']} shortened to the sliding window {window}, which the llama graph lacks"
    h["n_ctx"] = window
    return [notice]


def from_gguf(spec: ArchSpec, metadata: Mapping[str, Any], tensors: Collection[str]) -> HParams:
    """Parameters of a GGUF file, from its metadata and its tensors' names. GGUFError if missing or malformed."""
    h: dict[str, Any] = {}
    for row in spec.hparams:
        key = full_key(spec, row.key) if row.key else None
        value = row.present in tensors if row.present else _scalar(metadata.get(key) if key else None)
        if row.name == "n_vocab" and value is None and "tokenizer.ggml.tokens" in metadata:
            value = len(metadata["tokenizer.ggml.tokens"])
        if row.name == "rope_scaling" and value == "none":
            value = None
        _set(h, row, value, GGUFError("", field=key or row.name))
    return h


def _scalar(value: Any) -> Any:
    """One number for all layers, where a file gives an array of equal ones."""
    if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
        return value.flat[0].item()
    return value


def full_key(spec: ArchSpec, key: str) -> str:
    """The key in a file of an `HParam.key`."""
    return key if key.startswith("gguflike.") else f"{spec.name}.{key}"


def _set(h: dict[str, Any], row: HParam, value: Any, error: GGUFLikeError) -> None:
    """Check one value and store it, or its default. ``error`` carries the type and the place of a complaint."""
    if value is None:
        default = row.default(h) if callable(row.default) else row.default
        if default is None and not row.optional:
            raise type(error)("required value is missing", field=error.field)
        if default is not None:
            h[row.name] = default
        return
    if row.kind in (int, float):
        value = _number(row.kind, value, error)
    elif not isinstance(value, row.kind):
        raise type(error)("wrong kind of value", field=error.field, expected=row.kind.__name__, got=repr(value))
    h[row.name] = value


def _number(kind: type, value: Any, error: GGUFLikeError) -> int | float:
    number = not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf
    if not number or (kind is int and (value >= _LIMIT or value != int(value))):
        expected = "a positive integer below 2**31" if kind is int else "a positive number"
        raise type(error)("wrong kind of value", field=error.field, expected=expected, got=repr(value)[:80])
    return int(value) if kind is int else float(value)


def to_metadata(spec: ArchSpec, h: HParams) -> dict[str, Any]:
    """The ``<architecture>.*`` keys of a GGUF file."""
    keys = {}
    for row in spec.hparams:
        if row.key and row.name in h:
            for key in (row.key, *row.copies):
                keys[full_key(spec, key)] = h[row.name]
    return keys


def to_config(spec: ArchSpec, h: HParams) -> dict[str, Any]:
    """The part of config.json that describes the model. Inverse of `from_config`."""
    flat: dict[str, Any] = {}
    for row in spec.hparams:
        if row.config and row.name in h:
            value = h[row.name]
            value = _shortest(value) if row.kind is float else value
            flat[row.config.lstrip("!")] = not value if row.config.startswith("!") else value
    config = {key: value for key, value in flat.items() if not key.startswith("rope.")}
    return {**spec.config_constants, **config, **rope.unflatten(flat)}


def _shortest(value: float) -> float:
    """The shortest decimal that a float32 in GGUF stands for: 1e-05, not 9.999999747378752e-06."""
    single = np.float32(value)
    return float(str(single)) if single == value else value
