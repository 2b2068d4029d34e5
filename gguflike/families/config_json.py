"""The side of config.json of typed hyper-parameters: read into a configuration, and written from one.

Apart from config.py, since a run of a model reads no config.json.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError, counted
from gguflike.families import rope_settings
from gguflike.families.config import REQUIRED, Parameter, made, named, parameters

Config = TypeVar("Config")
# Keys of config.json that classes have, and the values with which others need not have them: all these are off.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "add_bias_linear": (False,),
    "add_qkv_bias": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "attention_out_bias": (False,),
    "bias": (False,),
    "causal": (True,),
    "embedding_multiplier": (1,),
    "is_causal": (True,),
    "lm_head_bias": (False,),
    "lm_head_multiplier": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "mup_enabled": (False,),
    "n_routed_experts": (0,),
    "norm_bias": (False,),
    "num_experts": (0,),
    "num_kv_shared_layers": (0,),
    "num_local_experts": (0,),
    "output_router_logits": (False, True),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "qkv_bias": (False,),
    "residual_multiplier": (1,),
    "use_alibi": (False,),
    "use_bias": (False,),
    "use_bidirectional_attention": (False,),
    "use_mup": (False,),
    "use_parallel_residual": (False,),
    "use_qk_layernorm": (False,),
    "use_qk_norm": (False,),
    "use_qkv_bias": (False,),
    "use_sliding_window": (False,),
}
# Of training, wherever they are: what is left out at random, terms of the loss, noise, first values.
_TRAINING = re.compile(
    r".*(dropout|pdrop)(_prob|_rate|_p)?|.*(aux|router_z|z)_loss(_coef|_coefficient|_alpha)?|.*jitter_noise"
    r"|.*initializer(_\w+)?"
)


def config_keys(config: type) -> set[str]:
    """The keys of config.json that a configuration reads, those of objects by the objects' names."""
    return {
        name if name.startswith("rope.") else name.partition(".")[0]
        for p in parameters(config)
        for name in p.key.config
    }


def check_keys(
    values: Mapping[str, Any],
    known: Collection[str],
    implemented: Mapping[str, tuple[Any, ...]],
    ignore: Collection[str],
    model_class: str,
) -> None:
    """UnsupportedError on keys, all at once, that are not ``known`` and may change what the model computes, and on a
    value that is none of the ``implemented`` ones of its key; but for the keys to ``ignore``."""
    unknown: dict[str, Any] = {}
    for key, value in values.items():
        if key in ignore or key.startswith("_") or value is None:
            continue
        if key not in implemented:
            if not (key in known or key in rope_settings.CONFIG_KEYS or is_off(key, value)):
                unknown[key] = value
        elif not _is_among(value, implemented[key]):
            raise UnsupportedError(
                "config value",
                field=f"config.json: {key}",
                expected=" or ".join(map(repr, implemented[key])),
                got=repr(value),
            )
    if unknown:
        raise UnsupportedError(
            f"{counted(len(unknown), 'key')} that {model_class} is not known to have",
            field=f"config.json: {', '.join(unknown)}",
            got=", ".join(f"{key}={value!r}"[:120] for key, value in unknown.items()),
            remedy=f"what does not change what the model computes may be accepted: `ignore_config={list(unknown)}`",
        )


def is_off(key: str, value: Any) -> bool:
    """Whether a key of config.json changes nothing in a class that does not have it."""
    if key == "layer_types":
        return isinstance(value, list) and all(kind == "full_attention" for kind in value)
    return _is_among(value, _OFF.get(key, ())) or _TRAINING.fullmatch(key) is not None


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is one of some, truth values and numbers apart, which Python takes for equal."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def unread_notices(values: Mapping[str, Any], unread: Collection[str], model_class: str) -> list[str]:
    """What to say of keys that a class does not read."""
    said = [f"{key} {values[key]!r}" for key in unread if values.get(key) not in (None, False)]
    return [f"{', '.join(said)} changes nothing: {model_class} of Transformers does not read it"] if said else []


def from_config(
    config: type[Config], values: Mapping[str, Any], holds: Callable[[str, Any], bool] = lambda *_: False
) -> Config:
    """A configuration from config.json. CheckpointError where a value is missing or of the wrong kind.

    ``holds(tensor, known)`` says whether the checkpoint has what a tensor of GGUF comes from, in a model with these
    fields.
    """
    flat = {**values, **_rope_entries(config, rope_settings.flatten(values, config_keys(config)))}

    def value(parameter: Parameter, known: SimpleNamespace) -> Any:
        key = parameter.key
        if key.tensor and not key.config and key.default is REQUIRED:
            return holds(named(key, known), known)
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
