"""What values of config.json must be before functions of families compute with them.

A configuration checks the values that its fields hold (config.py). Some families compute these from other keys first:
lists of layers from a period, sizes from factors. What such functions read of config.json is checked here, in one
place, so that they may take it for what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from gguflike.errors import CheckpointError
from gguflike.families.config import COUNTED, NESTED


class Kind(NamedTuple):
    """What a value is: in words, and whether one is it."""

    words: str
    holds: Callable[[Any], bool]

    def wrong(self, value: Any, **where: Any) -> CheckpointError:
        """What to raise for a value that is not. ``where`` and a remedy are those of `CheckpointError`."""
        return CheckpointError("wrong kind of value", expected=self.words, got=repr(value)[:80], **where)


def _integer(least: int, limit: int = 2**31) -> Kind:
    words = f"an integer from {least} to {limit - 1}"
    return Kind(words, lambda value: type(value) is int and least <= value < limit)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**31


def _is_sizes(value: Any) -> bool:
    return all(type(each) is int and 0 <= each < 2**31 for each in (value if isinstance(value, list) else [value]))


def _list_of(words: str, holds: Callable[[Any], bool]) -> Kind:
    return Kind(f"a list of {words}", lambda value: isinstance(value, list) and all(map(holds, value)))


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(str(name).isdecimal() for name in value)


_SIZE, _STEP, _COUNT = _integer(0), _integer(1), _integer(0, COUNTED)
_INTEGER = Kind("an integer", lambda value: type(value) is int)
_NUMBER = Kind("a number from 0 to 2**31", _is_number)
_POSITIVE = Kind("a number above 0, to 2**31", lambda value: _is_number(value) and value > 0)
TEXT = Kind("a text", lambda value: isinstance(value, str))
_TEXTS = _list_of("texts", lambda value: isinstance(value, str))
_INTEGERS = _list_of("integers", lambda value: isinstance(value, int))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
_CLASSES = Kind("a list of names of classes", lambda value: _TEXTS.holds(value) and all(value))

# Objects whose keys are checked like those of the whole: text models, and parts that have settings of their own.
_INSIDE = (*NESTED, "linear_attn_config", "sparse_attention_config")
# Objects with settings of a rotation, those for types of layers among them.
_ROTATIONS = ("rope_parameters", "rope_scaling", "full_attention", "sliding_attention")
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys((*_INSIDE, *_ROTATIONS, "vision_config", "audio_config", "label2id"), OBJECT),
    **dict.fromkeys(("num_hidden_layers", "num_kv_shared_layers", "num_labels"), _COUNT),
    **dict.fromkeys(("hidden_size", "head_dim", "n_group", "num_local_experts", "attn_layer_offset"), _SIZE),
    "max_window_layers": _SIZE,
    **dict.fromkeys(("interleave_moe_layer_step", "no_rope_layer_interval", "attn_layer_period"), _STEP),
    **dict.fromkeys(("num_attention_heads", "block_multiple_of"), _STEP),
    "pad_token_id": _integer(-1),
    **dict.fromkeys(("max_position_embeddings", "expand", "mamba_expand", "query_pre_attn_scalar"), _NUMBER),
    **dict.fromkeys(("block_ffn_dim_multiplier", "n_shared_experts", "rotary_dim", "scale_depth"), _NUMBER),
    "dim_model_base": _POSITIVE,
    **dict.fromkeys(("n_positions", "max_trained_positions"), _NUMBER),
    **dict.fromkeys(("index_topk_freq", "index_skip_topk_offset"), _INTEGER),
    **dict.fromkeys(("qk_nope_head_dim", "linear_value_head_dim", "mamba_head_dim"), _SIZE),
    **dict.fromkeys(("global_head_dim", "num_global_key_value_heads", "num_kv_heads"), _SIZE),
    **dict.fromkeys(("clip_qkv", "final_logit_softcapping"), _NUMBER),
    "sliding_window": _INTEGER,
    "tie_word_embeddings": TRUTH,
    "architectures": _CLASSES,
    **dict.fromkeys(
        ("model_type", "topk_method", "scoring_func", "classifier_pooling", "hybrid_override_pattern"), TEXT
    ),
    **dict.fromkeys(("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types"), _TEXTS),
    "mtp_layer_types": _TEXTS,
    "mtp_sliding_windows": _list_of("integers or nulls", lambda value: value is None or type(value) is int),
    "index_topk_pattern": Kind("a text, or a list of texts", lambda value: TEXT.holds(value) or _TEXTS.holds(value)),
    **dict.fromkeys(("attn_layer_indices", "full_attn_idxs", "no_rope_layers"), _INTEGERS),
    **dict.fromkeys(("full_attn_layers", "kda_layers"), _INTEGERS),
    **dict.fromkeys(("intermediate_size", "num_key_value_heads"), Kind("an integer, or a list of them", _is_sizes)),
    "per_layer_config": Kind(
        "an object of objects", lambda value: isinstance(value, dict) and all(map(OBJECT.holds, value.values()))
    ),
    "id2label": Kind("an object of texts by number", _is_labels),
}


# Settings of rotations, and what they must be. Their ranges are checked where they are read (rope_settings.py).
_FINITE = Kind("a number", lambda value: type(value) in (int, float))
_ROPE: Mapping[str, Kind] = {
    **dict.fromkeys(("factor", "original_max_position_embeddings", "alpha", "beta_fast", "beta_slow"), _FINITE),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "attention_factor", "attn_factor"), _FINITE),
    **dict.fromkeys(("mscale", "mscale_all_dim", "llama_4_scaling_beta", "extrapolation_factor"), _FINITE),
    **dict.fromkeys(("short_mscale", "long_mscale", "partial_rotary_factor"), _FINITE),
    "rope_theta": Kind("a number above 0", lambda value: _FINITE.holds(value) and value > 0),
    **dict.fromkeys(("rope_type", "type"), TEXT),
    **dict.fromkeys(("short_factor", "long_factor"), _list_of("numbers", _FINITE.holds)),
    "mrope_section": _INTEGERS,
    **dict.fromkeys(("truncate", "mrope_interleaved"), TRUTH),
    **dict.fromkeys(("full_attention", "sliding_attention"), OBJECT),
}

# Keys that may be missing, for which a class has a number then, which a null takes away.
_NEVER_NULL = frozenset(
    {"expand", "mamba_expand", "block_multiple_of", "no_rope_layer_interval", "attn_layer_period", "attn_layer_offset"}
)


# What families say with of what follows from other keys, so that no key of config.json can be called so.
_OWN = frozenset({"scored", "position_offset", "dt_b_c_rms"})


def check_kinds(values: Mapping[str, Any]) -> None:
    """CheckpointError for the first value of config.json that is not of its key's kind. A null stands for no value,
    but where models are made by computing with it."""
    _check(values, KINDS, "")


def _check(values: Mapping[str, Any], kinds: Mapping[str, Kind], inside: str) -> None:
    for key, value in values.items():
        if key in _OWN:
            raise CheckpointError(
                "a key that no model class has",
                field=f"config.json: {key}",
                got=repr(value)[:80],
                remedy="leave it out",
            )
        kind = kinds.get(key)
        if kind is not None and (value is not None or key in _NEVER_NULL) and not kind.holds(value):
            raise kind.wrong(value, field=f"config.json: {inside}{key}")
        if isinstance(value, dict) and key in _INSIDE:
            _check(value, KINDS, inside)
        elif isinstance(value, dict) and key in _ROTATIONS:
            _check(value, _ROPE, f"{key}.")


_NUMBERS = Kind("a number", lambda value: isinstance(value, int | float | list) and not isinstance(value, bool))
# What a value must be where Transformers has one of this type for models that do not say. "auto" stands for a number.
_OF_DEFAULTS: Mapping[type, Kind] = {
    bool: TRUTH,
    int: _NUMBERS,
    float: _NUMBERS,
    str: TEXT,
    list: Kind("a list", lambda value: isinstance(value, list)),
}


# What Transformers takes in two kinds: a pattern of layers as a number or as letters, gates as a switch or by name. The
# families check them.
_EITHER = frozenset({"sliding_window_pattern", "gating"})


def check_like(values: Mapping[str, Any], defaults: Mapping[str, Any], left: Collection[str]) -> None:
    """CheckpointError for the first value that is of another kind than the one that is assumed where there is none,
    but for the keys that are ``left``, which nothing is computed with. Lists of numbers, which models of layers of
    several sizes have, are checked where they are read."""
    for key, default in defaults.items():
        value, kind = values.get(key), _OF_DEFAULTS.get(type(default))
        if value is None or kind is None or default == "auto" or key in left or key in _EITHER or kind.holds(value):
            continue
        raise kind.wrong(value, field=f"config.json: {key}")
