"""What a model family is: a configuration, a function to a graph, and where each tensor stands in a checkpoint.

A `Family` is data and one short function. The converter reads it from the checkpoint's side (config.json in, GGUF names
and keys out), the exporter in the other direction, and the runner from the GGUF's side; none of them knows a family by
name.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gguflike.errors import CheckpointError, GGUFError, GGUFLikeError, UnsupportedError
from gguflike.families import config as configs
from gguflike.families import rope
from gguflike.families.parts import Graph, Place
from gguflike.families.transforms import IDENTITY, Transform

Floats = npt.NDArray[np.float32]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Named:
    """A tensor of the checkpoint, by its name without ``.weight`` or ``.bias``: below the layer's prefix for one of a
    layer. ``via`` is what happens to its rows."""

    name: str
    via: Transform = IDENTITY


@dataclass(frozen=True)
class Made:
    """A tensor that the checkpoint does not hold: computed from the configuration."""

    make: Callable[[Any], Floats]


Origin = Named | Made


class Binding(NamedTuple):
    """One tensor of one model, on both sides. ``shape`` and ``hf_shape`` are in numpy order."""

    gguf: str
    hf: str | None
    shape: tuple[int, ...]
    hf_shape: tuple[int, ...]
    via: Transform = IDENTITY
    make: Callable[[], Floats] | None = None


@dataclass(frozen=True)
class Family(Generic[Config]):
    """A model family.

    ``name`` is its ``general.architecture``, ``classes`` are the classes of Transformers. ``graph`` makes the graph of
    a configuration. ``origins`` say for every role without its suffix where the tensor comes from, ``layers`` how names
    in a layer begin, ``ignored`` which tensors of a checkpoint are no weights.

    Of config.json, ``implemented`` lists the values of behaviour-changing keys that the graph computes, ``inert`` the
    keys that change nothing, ``constants`` what an exported file says beyond the configuration, ``assumed`` what
    Transformers assumes for absent keys. ``window`` is the key of a sliding window that the graph does not compute: the
    context is shortened to it. ``recover`` gives fields that a GGUF file holds only as tensors, which it reads by name.
    """

    name: str
    classes: tuple[str, ...]
    config: type[Config]
    graph: Callable[[Config], Graph]
    origins: Mapping[str, Origin]
    layers: str = "model.layers.{i}."
    ignored: tuple[str, ...] = ()
    implemented: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    window: str | None = None
    recover: Callable[[Config, Callable[[str], Floats]], Config] | None = None

    def from_config(self, values: Mapping[str, Any], ignore: Iterable[str] = ()) -> tuple[Config, list[str]]:
        """The configuration of a checkpoint, and what to tell the user about it.

        ``ignore`` names keys to accept unread. UnsupportedError on a key or value that may change what the model
        computes, CheckpointError on missing or malformed ones.
        """
        full = {**self.assumed, **values}
        self._check_keys(full, frozenset(ignore))
        window, notices = self._window(full)
        c = configs.from_config(self.config, full)
        context = getattr(c, "n_ctx", None)
        if window is None or context is None or window >= context:
            return c, notices
        said = f"context length {context} shortened to the sliding window {window}, which the {self.name} graph lacks"
        return configs.changed(c, n_ctx=window), [*notices, said]

    def _window(self, values: Mapping[str, Any]) -> tuple[int | None, list[str]]:
        """The sliding window that the model asks for and the graph lacks, if any."""
        window = values.get(self.window) if self.window else None
        if window is None or values.get("use_sliding_window") is False:
            return None, []
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise CheckpointError("sliding window is not a positive integer", field="config.json", got=repr(window))
        return window, []

    def _check_keys(self, values: Mapping[str, Any], ignore: frozenset[str]) -> None:
        known = configs.config_keys(self.config) | rope.CONFIG_KEYS | self.inert | ignore | {self.window}
        for key, value in values.items():
            allowed = self.implemented.get(key)
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
                    f"config key that {self.classes[0]} is not known to have",
                    field=f"config.json: {key}",
                    got=repr(value)[:120],
                    remedy="if it does not change what the model computes, name it in ignore_config",
                )
            if value not in allowed:
                raise UnsupportedError(
                    "config value",
                    field=f"config.json: {key}",
                    expected=" or ".join(map(repr, allowed)),
                    got=repr(value),
                )

    def bind(self, c: Config) -> tuple[Binding, ...]:
        """Every tensor of a model with configuration ``c``, in file order."""
        return tuple(self._bound(place, c) for place in self.graph(c).tensors() if place.tensor.used)

    def _bound(self, place: Place, c: Config) -> Binding:
        tensor = place.tensor
        origin = self.origins[tensor.role.rpartition(".")[0]]
        if isinstance(origin, Made):
            return Binding(place.name, None, tensor.shape, tensor.shape, make=functools.partial(origin.make, c))
        via = origin.via.bound(tensor)
        name = self.hf_name(tensor.role, place.layer)
        return Binding(place.name, name, tensor.shape, via.hf_shape(tensor.shape), via)

    def hf_name(self, role: str, layer: int | None = None) -> str:
        """What a tensor of a part is called in the checkpoint. KeyError for one that is not there."""
        stem, _, suffix = role.rpartition(".")
        origin = self.origins[stem]
        if isinstance(origin, Made):
            raise KeyError(role)
        prefix = "" if layer is None else self.layers.format(i=layer)
        return f"{prefix}{origin.name}.{suffix}"

    def ruled_out(self, c: Config) -> Iterator[str]:
        """Names in the checkpoint of tensors that the configuration says the model does not use (an output matrix that
        is tied to the embedding, say)."""
        for place in self.graph(c).tensors():
            if not place.tensor.used:
                yield self.hf_name(place.tensor.role, place.layer)

    @functools.cached_property
    def _ignored(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in self.ignored) or r"(?!)")

    def ignores(self, hf_name: str) -> bool:
        """Whether a checkpoint tensor holds nothing that the model computes with."""
        return self._ignored.fullmatch(hf_name) is not None

    def to_config(self, c: Config) -> dict[str, Any]:
        """The part of config.json that describes the model. Inverse of `from_config`."""
        return {**self.constants, **configs.to_config(c)}


def check_layers(config: Any, path: str | os.PathLike[str], tensors: int) -> None:
    """GGUFError where a file promises more layers than it has tensors: before a graph of so many is made."""
    if config.n_layer > tensors:
        raise GGUFError("more layers than tensors", path=path, field="block_count", got=config.n_layer)


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
