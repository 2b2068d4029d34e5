"""What a model family is: rows of hyper-parameters and tensors, and the closed options of its graph.

An `ArchSpec` is data. The converter reads it from the checkpoint's side (config.json in, GGUF names and keys out),
the exporter in the other direction, and the runner from the GGUF's side; none of them knows a family by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.arch.transforms import IDENTITY, Transform
from gguflike.errors import GGUFLikeError

HParams = Mapping[str, Any]
"""Hyper-parameters by `HParam.name`; an optional one that is not set is absent."""

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


class HParam(NamedTuple):
    """One hyper-parameter: its name here, its GGUF key below ``<architecture>.`` and its key in config.json.

    A GGUF key that begins with ``gguflike.`` stands as it is; a config key that begins with ``!`` is stored negated.
    ``default`` is the value (or a function of the parameters above it) that Transformers and llama.cpp assume where
    the key is missing; a parameter with no default is required unless ``optional``. ``copies`` are further GGUF keys
    that carry the same value. ``present`` names a GGUF tensor whose presence tells a boolean that GGUF does not store.
    Config keys that begin with ``rope.`` are the flattened form that `gguflike.arch.rope` makes.
    """

    name: str
    key: str | None
    config: str | None
    kind: type = int
    default: Any = None
    optional: bool = False
    copies: tuple[str, ...] = ()
    present: str | None = None


class TensorRule(NamedTuple):
    """One tensor, or one per layer where the names hold ``{i}``.

    ``shape`` is numpy order as stored in GGUF; a dimension is a product or quotient of parameter names, such as
    ``n_head*head_dim``. ``when`` names a boolean parameter without which the tensor does not exist (``!name``: with
    which it does not). A rule with ``make`` instead of ``hf`` computes its tensor from the parameters.
    """

    hf: str | None
    gguf: str
    shape: tuple[str, ...]
    via: Transform = IDENTITY
    when: str | None = None
    make: Callable[[HParams], npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Graph:
    """The closed options that one interpreter (the runner) knows how to compute."""

    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    ffn: Literal["gated", "plain"] = "gated"
    rope: Literal["norm", "neox", "none"] = "norm"
    qk_norm: bool = False


class Binding(NamedTuple):
    """A rule made concrete: one tensor of one model. ``shape`` and ``hf_shape`` are in numpy order."""

    gguf: str
    hf: str | None
    shape: tuple[int, ...]
    hf_shape: tuple[int, ...]
    via: Transform
    make: Callable[[HParams], npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class ArchSpec:
    """A model family.

    ``hf_names`` are the classes of Transformers. ``config_values`` lists the values of behaviour-changing config keys
    that the graph implements, ``config_inert`` the keys that do not change what the model computes, ``ignore`` the
    checkpoint tensors that are not weights, ``config_constants`` what an exported config.json says beyond the
    parameters, ``config_defaults`` what Transformers assumes for absent keys. ``window_key`` is the config key of a
    sliding window that the graph does not compute; `gguflike.arch.hparams` shortens the context to it. ``recover``
    gives parameters that a GGUF file holds only as tensors, which it reads by name as float32.
    """

    name: str
    hf_names: tuple[str, ...]
    hparams: tuple[HParam, ...]
    tensors: tuple[TensorRule, ...]
    graph: Graph = Graph()
    ignore: tuple[str, ...] = ()
    config_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    config_inert: frozenset[str] = frozenset()
    config_constants: Mapping[str, Any] = field(default_factory=dict)
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    window_key: str | None = None
    recover: Callable[[HParams, Callable[[str], npt.NDArray[np.float32]]], HParams] | None = None

    def bind(self, h: HParams) -> tuple[Binding, ...]:
        """Every tensor of a model with parameters ``h``, in file order: before, in and after the layers."""
        return tuple(self._bind(h))

    def _bind(self, h: HParams) -> Iterator[Binding]:
        layered = [rule for rule in self.tensors if "{i}" in rule.gguf]
        last = self.tensors.index(layered[-1]) if layered else -1
        for position, rule in enumerate(self.tensors):
            if rule not in layered and holds(rule.when, h):
                yield _binding(rule, h)
            if position == last:
                for layer in range(h["n_layer"]):
                    yield from (_binding(each, h, layer) for each in layered if holds(each.when, h))

    @cached_property
    def _ignored(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in self.ignore) or r"(?!)")

    def ignores(self, hf_name: str) -> bool:
        """Whether a checkpoint tensor holds nothing that the model computes with."""
        return self._ignored.fullmatch(hf_name) is not None

    def tensors_without_flag(self, h: HParams) -> Collection[str]:
        """Names in the checkpoint of tensors that the parameters ``h`` rule out (an output matrix of a tied model)."""
        rules = [rule for rule in self.tensors if rule.hf and not holds(rule.when, h)]
        return {name for rule in rules for name in _expand(str(rule.hf), h)}


def _expand(template: str, h: HParams) -> list[str]:
    return [template.format(i=i) for i in range(h["n_layer"])] if "{i}" in template else [template]


def _binding(rule: TensorRule, h: HParams, layer: int = 0) -> Binding:
    shape = tuple(dimension(text, h) for text in rule.shape)
    hf = rule.hf.format(i=layer) if rule.hf else None
    via = rule.via.bound(h)
    return Binding(rule.gguf.format(i=layer), hf, shape, via.hf_shape(shape), via, rule.make)


def holds(when: str | None, h: HParams) -> bool:
    """Whether a condition of a rule is met."""
    if when is None:
        return True
    return not h.get(when[1:]) if when.startswith("!") else bool(h.get(when))


def dimension(text: str, h: HParams) -> int:
    """The value of ``a*b/c`` over parameter names and numbers."""
    above, _, below = text.partition("/")
    value = prod(_term(term, h) for term in above.split("*"))
    return value // _term(below, h) if below else value


def _term(term: str, h: HParams) -> int:
    return int(term) if term.isdigit() else int(h[term])


def expect_tensor(
    kind: type[GGUFLikeError],
    path: str | os.PathLike[str],
    name: str,
    shape: tuple[int, ...],
    found: tuple[int, ...] | None,
    remedy: str,
) -> None:
    """Raise an error of ``kind`` where the tensor ``name`` of a model is missing (``found`` is None) or misshapen."""
    if found is None:
        raise kind("tensor is missing", path=path, tensor=name, expected=f"shape {shape}", remedy=remedy)
    if found != shape:
        raise kind("tensor has the wrong shape", path=path, tensor=name, expected=shape, got=found, remedy=remedy)


def role_of(gguf_name: str) -> tuple[str, int | None]:
    """Role and layer of a tensor by its GGUF name: ``blk.3.attn_q.weight`` is ("attn_q", 3)."""
    match = _BLOCK.fullmatch(gguf_name)
    layer, rest = (int(match[1]), match[2]) if match else (None, gguf_name)
    return rest.removesuffix(".weight"), layer
