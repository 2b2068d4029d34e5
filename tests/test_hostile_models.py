"""Settings that no model has, of every class: one typed error at once, or a model; never anything else."""

from __future__ import annotations

import copy
import functools
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from gguflike.errors import CheckpointError, GGUFError, GGUFLikeError, UnsupportedError
from gguflike.families import config as configs
from gguflike.families import registry
from gguflike.families.family import Family, check_layers
from gguflike.runner import graph as programs
from tests.interop.families.table import TABLE

TRIES = 500  # a few seconds; with more this finds more, once in a while
SECONDS = 1.0  # of a processor; what is refused takes a few milliseconds
HOSTILE: tuple[Any, ...] = (
    *(None, "", "x", "silu", -1, 0, 1, 2, 3, 7, 10**6, 10**9, 2**31 - 1, 2**31, 2**63, 2**64, 10**400),
    *(0.0, -0.5, 0.5, 1.5, 1e-300, 1e300, float("inf"), float("nan"), True, False),
    *([], [1], [0] * 4, [1, 2, 3, 4], [1.5] * 4, [2**31] * 4, [-1] * 4, ["x"], [None], [[]], {}, {"a": 1}),
    *(["full_attention"] * 3, ["full_attention"] * 4, ["sliding_attention"] * 4, ["linear_attention"] * 4),
    *({"rope_type": "yarn"}, {"rope_type": "longrope"}, {"full_attention": {}}, {"full_attention": 1}),
)
ABSENT: Any = object()


class Model(NamedTuple):
    """What a checkpoint and a file of one class say."""

    name: str
    config: dict[str, Any]
    family: Family[Any]
    metadata: dict[str, Any]
    tensors: list[str]


@functools.cache
def models() -> tuple[Model, ...]:
    return tuple(model for row in TABLE.values() for model in _model(row))


def _model(row: Any) -> Iterator[Model]:
    model_class = row.registered or row.model_class
    if model_class not in registry.CLASSES or row.architecture not in registry.ARCHITECTURES:
        return
    values = {"architectures": [model_class], **row.config}
    family = registry.for_config(values)
    try:
        c, _ = family.from_config(values)
    except CheckpointError:  # some sizes stand in tensors only
        return
    metadata = {key: _stored(value) for key, value in configs.to_metadata(c, family.name).items()}
    tensors = [binding.gguf for binding in family.bind(c)]
    yield Model(row.name, values, family, metadata | {"tokenizer.ggml.tokens": ["x"] * c.n_vocab}, tensors)


def _stored(value: Any) -> Any:
    """A value as a GGUF file gives it."""
    if isinstance(value, list) and not any(isinstance(each, str) for each in value):
        return np.array(value)
    return value


def by_name(name: str) -> Model:
    return next(model for model in models() if model.name == name)


def convert(values: dict[str, Any]) -> None:
    """All that happens to a config.json before a tensor is read."""
    family = registry.for_config(values)
    c, _ = family.from_config(values)
    if c.n_layer > 64:  # more than a checkpoint of these has tensors, which `convert` complains of
        return
    family.bind(c, ())
    list(family.ruled_out(c))
    configs.to_metadata(c, family.name)
    family.to_config(c)


def load(architecture: str, metadata: dict[str, Any], tensors: list[str]) -> None:
    """All that happens to a file's metadata before a tensor is read."""
    family = registry.for_gguf(architecture).of_file(metadata, tensors)
    c = family.from_file(metadata, tensors)
    check_layers(c, "file", len(tensors))
    graph = family.graph(c)
    programs.check(graph)
    programs.bytes_per_position(graph, "f16")
    assert all(place.tensor.shape is not None for place in graph.tensors())


def changed(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    made = at = copy.deepcopy(values)
    for key in path[:-1]:
        if not isinstance(at.get(key), dict):
            at[key] = {}
        at = at[key]
    if value is ABSENT:
        at.pop(path[-1], None)
    else:
        at[path[-1]] = value
    return made


def paths(values: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, str(key)))


def damaged_config(model: Model, chance: random.Random) -> tuple[dict[str, Any], list[Any]]:
    values, said = model.config, []
    named = [name for p in configs.parameters(model.family.config) for name in p.key.config if "rope." not in name]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.choice(list(paths(values))) if chance.random() < 0.5 else (*_nest(values), chance.choice(named))
        value = chance.choice((ABSENT, *HOSTILE))
        if place[-1] != "architectures":
            values = changed(values, place, value)
            said.append((place, value))
    return values, said


def _nest(values: dict[str, Any]) -> tuple[str, ...]:
    return ("text_config",) if isinstance(values.get("text_config"), dict) else ()


def damaged_file(model: Model, chance: random.Random) -> tuple[dict[str, Any], list[str], list[Any]]:
    metadata, tensors, said = dict(model.metadata), list(model.tensors), []
    own = [p.key.gguf for p in configs.parameters(model.family.config) if p.key.gguf]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.15:
            said.append(tensors.pop(chance.randrange(len(tensors))))
            continue
        name = chance.choice(
            list(metadata) if chance.random() < 0.5 else [configs.full_key(model.family.name, own_) for own_ in own]
        )
        value = _stored(chance.choice([each for each in HOSTILE if _storable(each)]))
        metadata[name] = value
        said.append((name, value))
    return metadata, tensors, said


def _storable(value: Any) -> bool:
    """Whether a GGUF file can say it."""
    if isinstance(value, list):
        return all(isinstance(each, str | int | float) for each in value)
    return not isinstance(value, dict) and value is not None and (not isinstance(value, int) or value < 2**64)


@pytest.mark.filterwarnings("error")
def test_random_settings() -> None:
    chance = random.Random(11)
    refused = 0
    for _ in range(TRIES):
        model = chance.choice(models())
        values, of_config = damaged_config(model, chance)
        metadata, tensors, of_file = damaged_file(model, chance)
        for attempt, said in (
            (functools.partial(convert, values), of_config),
            (functools.partial(load, model.family.name, metadata, tensors), of_file),
        ):
            begun = time.process_time()
            try:
                attempt()
            except GGUFLikeError as error:
                refused += len(str(error)) > 0
            except Exception as error:
                raise AssertionError(f"{model.name}: {said}") from error
            assert time.process_time() - begun < SECONDS, (model.name, said)
    assert TRIES < refused < 2 * TRIES


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("Gemma4ForConditionalGeneration", ("text_config",), 7, "text_config: wrong kind of value; expected an object"),
        ("LlamaForCausalLM", ("num_hidden_layers",), 2**31 - 1, "num_hidden_layers: wrong kind of value"),
        ("SmolLM3ForCausalLM", ("num_hidden_layers",), 2**64, "num_hidden_layers: wrong kind of value"),
        ("SmolLM3ForCausalLM", ("no_rope_layer_interval",), 0, "no_rope_layer_interval: wrong kind of value"),
        (
            "Qwen3MoeForCausalLM",
            ("num_experts",),
            10**6,
            "num_experts: wrong kind of value; expected a positive integer below 16384",
        ),
        ("Qwen3_5ForCausalLM", ("layer_types",), -0.5, "layer_types: wrong kind of value; expected a list of texts"),
        ("GraniteMoeHybridForCausalLM", ("mamba_expand",), "x", "mamba_expand: wrong kind of value"),
        ("LlamaForCausalLM", ("rms_norm_eps",), 10**400, "rms_norm_eps: wrong kind of value"),
        ("LlamaForCausalLM", ("rms_norm_eps",), 1e300, "rms_norm_eps: wrong kind of value"),
        ("JambaForCausalLM", ("attn_layer_period",), 0, "attn_layer_period: wrong kind of value"),
        ("BertForSequenceClassification", ("id2label",), {"a": "b"}, "id2label: wrong kind of value"),
    ],
)
def test_values_that_families_compute_with(name: str, path: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(changed(by_name(name).config, path, value))


@pytest.mark.parametrize(
    ("name", "key", "value", "error", "message"),
    [
        ("LlamaForCausalLM", "tokenizer.ggml.tokens", 7, GGUFError, "tokenizer.ggml.tokens: wrong kind of value"),
        ("LlamaForCausalLM", "llama.block_count", 2**31 - 1, GGUFError, "block_count: wrong kind of value"),
        ("LlamaForCausalLM", "llama.attention.value_length", "x", UnsupportedError, "attention.value_length"),
        ("Qwen3MoeForCausalLM", "qwen3moe.expert_count", 2**30, GGUFError, "expert_count: wrong kind of value"),
        (
            "Gemma4ForConditionalGeneration",
            "gemma4.attention.shared_kv_layers",
            2**20,
            UnsupportedError,
            "num_kv_shared_layers",
        ),
        ("AfmoeForCausalLM", "afmoe.expert_gating_func", [1, 2], GGUFError, "expert_gating_func: wrong kind of value"),
    ],
)
def test_files_that_say_what_no_model_has(
    name: str, key: str, value: Any, error: type[Exception], message: str
) -> None:
    model = by_name(name)
    with pytest.raises(error, match=message):
        load(model.family.name, {**model.metadata, key: _stored(value)}, model.tensors)
