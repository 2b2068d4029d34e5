"""Rotary position settings of config.json: their spellings, flattened to one and back.

Transformers 4 writes ``rope_theta`` and ``rope_scaling``, Transformers 5 one ``rope_parameters``, or one for each type
of layer; models have names of their own beside these. Flattened, they are entries that fields of a configuration name:

    rope.theta                    base of the frequencies
    rope.partial_rotary_factor    share of a head that turns, where it is not all
    rope.sections                 dimensions of the three positions of images; those of text are equal
    rope.temperature              Llama 4's scale of queries by position
    rope.scaling.*                linear, yarn and longrope, as GGUF calls their numbers
    rope.llama3.*  rope.longrope.*  rope.dynamic.*  rope.proportional.*
    rope.sliding.*                the same of layers with a window, where they have their own
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gguflike.errors import CheckpointError, UnsupportedError
from gguflike.families.config import LARGEST
from gguflike.families.rope import yarn_magnitude

_THETA = ("rope_theta", "global_rope_theta", "rope_global_theta", "rope_theta_global", "rotary_emb_base")
_LOCAL = ("rope_local_base_freq", "local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta")
_PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent")
_CONTEXT = "original_max_position_embeddings"
_DICTIONARIES = ("rope_parameters", "rope_scaling")
_FULL, _SLIDING = "full_attention", "sliding_attention"

CONFIG_KEYS = frozenset({*_DICTIONARIES, *_THETA, *_LOCAL, *_PARTIAL, _CONTEXT})


class _Kind(NamedTuple):
    """One rope type: the prefix of its entries, and what its numbers are called in both places. Those of ``optional``
    may be missing; ``idle`` are settings that the type does not use."""

    prefix: str
    numbers: Mapping[str, str]
    optional: Mapping[str, str] = {}
    idle: frozenset[str] = frozenset()


_YARN = frozenset({"beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind("", {}, idle=frozenset({"factor"})),
    "linear": _Kind("scaling.", {"factor": "factor"}),
    "yarn": _Kind(
        "scaling.",
        {"factor": "factor", _CONTEXT: "original_context_length"},
        {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"},
    ),
    "longrope": _Kind("scaling.", {_CONTEXT: "original_context_length"}, idle=frozenset({"factor"})),
    "llama3": _Kind(
        "llama3.",
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            _CONTEXT: "original_context_length",
        },
    ),
    "dynamic": _Kind("dynamic.", {"factor": "factor"}, {"alpha": "alpha"}, idle=_YARN),
    "proportional": _Kind("proportional.", {}, {"factor": "factor"}),
}
_ALIASES = {"su": "longrope", "mrope": "default"}
# What every type may have beside its numbers.
_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"})
_MAGNITUDES = frozenset({"attention_factor", "attn_factor", "mscale", "mscale_all_dim"})


def has_settings(config: Mapping[str, Any]) -> bool:
    """Whether config.json has an object of settings."""
    return any(isinstance(config.get(key), dict) and config[key] for key in _DICTIONARIES)


def has_base(config: Mapping[str, Any]) -> bool:
    """Whether config.json gives the base of the rotation, by whatever name."""
    return _somewhere(config, "rope_theta", _THETA)


def said(config: Mapping[str, Any]) -> set[str]:
    """The keys of the rotation of which config.json says something, by whatever name: none may be assumed besides."""
    found = set(_LOCAL) if any(config.get(name) is not None for name in _LOCAL) else set()
    if has_base(config):
        found |= set(_THETA)
    if _somewhere(config, "partial_rotary_factor", _PARTIAL):
        found |= set(_PARTIAL)
    return found | ({*_DICTIONARIES} if found or has_settings(config) else set())


def _somewhere(config: Mapping[str, Any], inside: str, names: Collection[str]) -> bool:
    """Whether config.json has one of ``names``, or ``inside`` in its objects of settings."""
    objects = [config[key] for key in _DICTIONARIES if isinstance(config.get(key), dict)]
    nested = [each for found in objects for each in found.values() if isinstance(each, dict)]
    return any(config.get(name) is not None for name in names) or any(inside in each for each in (*objects, *nested))


def flatten(config: Mapping[str, Any], read: Collection[str] = ()) -> dict[str, Any]:
    """``rope.*`` entries from any spelling; ``read`` are those that the configuration has fields for.

    The objects of settings are such (`kinds.check_kinds`). CheckpointError where settings contradict each other or are
    out of range, UnsupportedError for unknown ones.
    """
    spellings = [config.get(key) or {} for key in _DICTIONARIES]
    flat = [_flatten(each, config, read) for each in spellings if each] or [_flatten({}, config, read)]
    if flat[0] != flat[-1]:
        raise CheckpointError(
            "rope_parameters and rope_scaling contradict each other",
            field="config.json",
            expected=str(flat[0]),
            got=str(flat[-1]),
            remedy="keep the one that is right",
        )
    return flat[0]


def _flatten(given: Mapping[str, Any], config: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """The entries of all layers: those that are not of a type of layer stand for all where none has its own."""
    full, sliding = (_of_kind(given, kind) for kind in (_FULL, _SLIDING))
    if not isinstance(full, dict) and not isinstance(sliding, dict):
        flat = _one(given, config, _THETA, read)
        local = _number_of(config, _LOCAL)
        return flat if local is None else {**flat, "rope.sliding.theta": local}
    if not isinstance(full, dict):  # layers that see everything do not turn at all
        return _one(sliding or {}, config, _THETA, read)
    flat = _one(full, config, _THETA, read)
    if not isinstance(sliding, dict):
        return flat
    own = {name.replace("rope.sliding.", "rope.", 1) for name in read if name.startswith("rope.sliding.")}
    windowed = _one(sliding, config, _LOCAL, own)
    return {**flat, **{name.replace("rope.", "rope.sliding.", 1): value for name, value in windowed.items()}}


def _of_kind(given: Mapping[str, Any], kind: str) -> Any:
    """The settings of a type of layer, if it has its own. Of YaRN's, ``truncate`` stands beside them: Transformers does
    not read it among them (see `notices`)."""
    own = given.get(kind)
    if not isinstance(own, dict):
        return own
    made = {key: value for key, value in own.items() if key != "truncate"}
    stretched = own.get("rope_type", own.get("type")) == "yarn"
    return {**made, "truncate": given.get("truncate")} if stretched else made


def _one(
    given: Mapping[str, Any], config: Mapping[str, Any], thetas: tuple[str, ...], read: Collection[str]
) -> dict[str, Any]:
    """The entries of one type of layer."""
    name = given.get("rope_type", given.get("type")) or "default"
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in _KINDS:
        raise UnsupportedError("rope type", field="config.json", expected="one of " + ", ".join(_KINDS), got=repr(name))
    kind = _KINDS[name]
    flat: dict[str, Any] = {}
    if (theta := _theta(given, config, thetas)) is not None:
        flat["rope.theta"] = theta
    if kind.prefix == "scaling.":
        flat["rope.scaling.type"] = name
    for key, target in {**kind.numbers, **kind.optional}.items():
        value = _context(given, config) if key == _CONTEXT else given.get(key)
        if value is None and key == "factor" and name == "yarn":  # DeepSeek: the ratio of the contexts
            value = _ratio(given, config)
        if value is not None or key in kind.numbers:
            flat[f"rope.{kind.prefix}{target}"] = number(key, value)
    _partial(name, given, config, flat, read)
    _magnitude(name, given, config, flat, read)
    _others(name, given, flat)
    if "rope.temperature" in flat:  # from this context on queries grow, whatever stretches positions
        flat["rope.scaling.original_context_length"] = number(_CONTEXT, _context(given, config))
    if name == "dynamic" and "rope.dynamic.factor" not in read:  # which stretches nothing within the context
        flat = {key: value for key, value in flat.items() if not key.startswith("rope.dynamic.")}
    return flat


def notices(config: Mapping[str, Any], read: Collection[str] = ()) -> list[str]:
    """What is not computed of the settings: a factor that says no type, and how a dynamic rotation changes with a
    text's length beyond the context, which readers of the file do not know."""
    objects = [each for each in map(config.get, _DICTIONARIES) if each]
    kinds = [each.get("rope_type", each.get("type")) or "default" for each in objects]
    idle = [each.get("factor") for each, kind in zip(objects, kinds, strict=True) if kind == "default"]
    changes = dict.fromkeys(repr(factor) for factor in idle if factor not in (None, 1))
    said = [f"rope factor {factor} changes nothing: the rope_type is default" for factor in changes]
    nested = [given for each in objects for given in map(each.get, (_FULL, _SLIDING)) if isinstance(given, dict)]
    if any(given.get("truncate") is False for given in nested):
        said.append(
            "truncate false changes nothing in settings of a type of layer: Transformers does not read it there"
        )
    if "dynamic" not in kinds or "rope.dynamic.factor" in read:
        return said
    context = config.get("max_position_embeddings")
    return [
        *said,
        f"GGUF cannot say a dynamic rotation (rope_type): beyond {context} tokens, positions are not stretched",
    ]


def _theta(given: Mapping[str, Any], config: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    values = [(name, config.get(name)) for name in names] + [("rope_theta", given.get("rope_theta"))]
    found = {number(name, value) for name, value in values if value is not None}
    if len(found) > 1:
        raise CheckpointError("two values of rope_theta", field="config.json", got=str(sorted(found)))
    return found.pop() if found else None


def _number_of(config: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((number(name, config[name]) for name in names if config.get(name) is not None), None)


def _context(given: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """The context before it was stretched. One that stands beside the settings counts first, as in Transformers."""
    places = (config.get(_CONTEXT), given.get(_CONTEXT), config.get("max_position_embeddings"))
    return next((value for value in places if value is not None), None)


def _ratio(given: Mapping[str, Any], config: Mapping[str, Any]) -> float | None:
    longest, context = config.get("max_position_embeddings"), _context(given, config)
    return None if longest is None else number("max_position_embeddings", longest) / number(_CONTEXT, context)


def number(name: str, value: Any) -> float:
    """The value of a setting as a float. CheckpointError for what is no positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        raise CheckpointError(f"rope setting {name} is not a positive number", field="config.json", got=repr(value))
    return float(value)


def _partial(
    name: str, given: Mapping[str, Any], config: Mapping[str, Any], flat: dict[str, Any], read: Collection[str]
) -> None:
    """The share of a head that turns, which may not be all where nothing says so; "proportional" has all of it turn, a
    part of it by angles of zero."""
    share = given.get("partial_rotary_factor")
    turned = _number_of(config, _PARTIAL) if share is None else number("partial_rotary_factor", share)
    if name == "proportional":
        flat["rope.proportional.share"] = 1.0 if turned is None else turned
    elif turned is not None and (turned != 1.0 or "rope.partial_rotary_factor" in read):
        flat["rope.partial_rotary_factor"] = turned


def _magnitude(
    name: str, given: Mapping[str, Any], config: Mapping[str, Any], flat: dict[str, Any], read: Collection[str]
) -> None:
    """What cosines and sines are multiplied by: ``rope.scaling.attn_factor`` beside what readers of GGUF multiply by
    already, which is YaRN's own magnitude."""
    factor = given.get("attention_factor", given.get("attn_factor"))
    if name == "longrope":
        if factor is None:
            ratio = number("factor", given["factor"]) if given.get("factor") else _ratio(given, config) or 1.0
            context = flat["rope.scaling.original_context_length"]
            factor = math.sqrt(1.0 + math.log(ratio) / math.log(context)) if ratio > 1.0 else 1.0
        flat["rope.scaling.attn_factor"] = number("attention_factor", factor)
    if name != "yarn":
        return
    stretched = flat["rope.scaling.factor"]
    mscale, all_dim = given.get("mscale"), given.get("mscale_all_dim")
    own = yarn_magnitude(stretched)
    if all_dim and "rope.scaling.yarn_log_multiplier" in read:
        flat["rope.scaling.yarn_log_multiplier"] = number("mscale_all_dim", all_dim)
        own /= yarn_magnitude(stretched, flat["rope.scaling.yarn_log_multiplier"])
    if all_dim and "rope.scaling.mscale_all_dim" in read:  # of which readers multiply by nothing
        flat["rope.scaling.mscale_all_dim"] = number("mscale_all_dim", all_dim)
        own = 1.0
    if factor is not None:
        flat["rope.scaling.yarn_attn_factor"] = magnitude = number("attention_factor", factor)
    elif mscale and all_dim:
        upper, lower = number("mscale", mscale), number("mscale_all_dim", all_dim)
        magnitude = yarn_magnitude(stretched, upper) / yarn_magnitude(stretched, lower)
    else:
        magnitude = yarn_magnitude(stretched)
    if not math.isclose(magnitude, own, rel_tol=1e-6):
        flat["rope.scaling.attn_factor"] = magnitude / own
    if given.get("truncate") is False:
        flat["rope.scaling.truncate"] = False


def _others(name: str, given: Mapping[str, Any], flat: dict[str, Any]) -> None:
    """Settings beside numbers: lists, what changes nothing, and those that nobody knows."""
    known = _COMMON | _KINDS[name].numbers.keys() | _KINDS[name].optional.keys() | _KINDS[name].idle | {_CONTEXT}
    if name == "yarn":
        known |= _MAGNITUDES | {"truncate"}
    if name == "longrope":
        known |= {"attention_factor", "short_factor", "long_factor"}
        for key in ("short_factor", "long_factor"):
            flat[f"rope.longrope.{key}"] = [number(key, each) for each in _list(key, given.get(key))]
    if given.get("mrope_section") is not None:
        flat["rope.sections"] = _list("mrope_section", given["mrope_section"])
    if given.get("llama_4_scaling_beta"):
        known |= {"llama_4_scaling_beta"}
        flat["rope.temperature"] = number("llama_4_scaling_beta", given["llama_4_scaling_beta"])
    for key, value in given.items():
        if key in known or value is None or isinstance(value, dict):
            continue
        if key != "extrapolation_factor" or value != 1:
            raise UnsupportedError(f"rope setting {key} with type {name}", field="config.json", got=repr(value))


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"rope setting {name} is not a list", field="config.json", got=repr(value)[:80])
    return value


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``rope.*`` entries as config.json has them: as Transformers 4 writes them, which Transformers 5 reads, too; where
    types of layers differ, as Transformers 5 does. Empty for a model without a rotation."""
    sliding = {
        name.replace("rope.sliding.", "rope.", 1): v for name, v in flat.items() if name.startswith("rope.sliding.")
    }
    if sliding:
        kinds = {_FULL: spelled(flat), _SLIDING: spelled(sliding)}
        beside = {"truncate": False} if False in [each.pop("truncate", True) for each in kinds.values()] else {}
        return {"rope_parameters": {**kinds, **beside}}
    if "rope.theta" not in flat:
        return {}
    parameters = spelled(flat)
    config = {"rope_theta": parameters.pop("rope_theta"), "rope_scaling": None}
    if "partial_rotary_factor" in parameters and parameters["rope_type"] != "proportional":
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    if len(parameters) > 1 or parameters["rope_type"] != "default":
        config["rope_scaling"] = parameters
    return config


def spelled(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` of one type of layer."""
    name = _type_of(flat)
    kind = _KINDS[name]
    parameters: dict[str, Any] = {"rope_type": name, "rope_theta": flat.get("rope.theta", 10000.0)}
    for key, target in {**kind.numbers, **kind.optional}.items():
        if (value := flat.get(f"rope.{kind.prefix}{target}")) is not None:
            parameters[key] = value
    for key, target in (
        ("partial_rotary_factor", "rope.partial_rotary_factor"),
        ("partial_rotary_factor", "rope.proportional.share"),
        ("mrope_section", "rope.sections"),
        ("llama_4_scaling_beta", "rope.temperature"),
        ("short_factor", "rope.longrope.short_factor"),
        ("long_factor", "rope.longrope.long_factor"),
    ):
        if flat.get(target) is not None:
            parameters[key] = flat[target]
    if "rope.temperature" in flat and flat.get("rope.scaling.original_context_length") is not None:
        parameters[_CONTEXT] = flat["rope.scaling.original_context_length"]
    if flat.get("rope.scaling.truncate") is False:
        parameters["truncate"] = False
    if name == "longrope":
        parameters["attention_factor"] = flat["rope.scaling.attn_factor"]
    if name == "yarn":
        parameters |= _spelled_magnitude(flat)
    return parameters


def _type_of(flat: Mapping[str, Any]) -> str:
    if "rope.llama3.factor" in flat:
        return "llama3"
    if "rope.proportional.share" in flat:
        return "proportional"
    name: str = flat.get("rope.scaling.type", "none")
    return "default" if name == "none" else name


def _spelled_magnitude(flat: Mapping[str, Any]) -> dict[str, Any]:
    """YaRN's settings of the magnitude, as `_magnitude` reads them."""
    multiplier, factor = flat.get("rope.scaling.yarn_log_multiplier"), flat["rope.scaling.factor"]
    spelled = {} if multiplier is None else {"mscale": 1.0, "mscale_all_dim": multiplier}
    if (all_dim := flat.get("rope.scaling.mscale_all_dim")) is not None:
        spelled = {"mscale": all_dim, "mscale_all_dim": all_dim}
        if (more := flat.get("rope.scaling.attn_factor")) is not None:
            spelled["attention_factor"] = more
        return spelled
    if (whole := flat.get("rope.scaling.yarn_attn_factor")) is not None:
        spelled["attention_factor"] = whole
    elif (more := flat.get("rope.scaling.attn_factor")) is not None:
        divided = 1.0 if multiplier is None else yarn_magnitude(factor, multiplier)
        spelled["attention_factor"] = more * yarn_magnitude(factor) / divided
    return spelled
