"""What a model family is: a configuration, a function to a graph, and where each tensor stands in a checkpoint.

A `Family` is data and one short function. The converter reads it from the checkpoint's side (config.json in, GGUF names
and keys out), the exporter in the other direction, and the runner from the GGUF's side; none of them knows a family by
name.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from gguflike.errors import GGUFError, GGUFLikeError
from gguflike.families import config as configs
from gguflike.families.origins import Either, Made, Origin, Piece
from gguflike.families.parts import Graph, Place, Tensor, role_of
from gguflike.frozen import frozen

if TYPE_CHECKING:
    from gguflike.families.origins import Floats

Config = TypeVar("Config")
_NONE: Mapping[str, Any] = MappingProxyType({})


class Binding(NamedTuple):
    """One tensor of one model, on both sides: of the ``shape`` that GGUF stores (numpy order), put together of
    ``pieces``, or made from nothing by ``make``."""

    gguf: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    make: Callable[[], Floats] | None = None


class Small(NamedTuple):
    """A tensor ``name``, below the layer's name, of so few values that a configuration holds them: those of all
    ``layers`` that have one, as one list. ``shape`` and ``layers`` are of the configuration."""

    name: str
    shape: Callable[[Any], tuple[int, ...]]
    layers: Callable[[Any], Iterable[int]] = lambda c: range(c.n_layer)


#: Names of a text model inside of one for several kinds of input -> its own.
NESTED_NAMES = (
    (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"^(model\.language_model|language_model\.model|model\.text_model)\.", "model."),
)


@frozen
class Family(Generic[Config]):
    """A model family.

    ``name`` is its ``general.architecture``; registry.py says which classes of Transformers it has. ``graph`` makes the
    graph of a configuration. ``origins`` say for every role without its suffix where the tensor comes from, ``layers``
    how names in a layer begin. ``mtp_origins`` say where tensors stand that multi-token-prediction heads alone have, or
    have elsewhere than other layers, ``mtp_layers`` how names in the block of a head begin where that is no layer
    behind the others. ``ignored`` says which tensors of a checkpoint are no weights (beside the buffers of all
    models, names.py), ``left_out`` which are weights of what is not converted (pattern of names -> what they are, "the
    vision tower", said in a notice). ``renamed`` are (pattern, replacement) pairs that make canonical names, each
    applied in turn: of models inside of others, or saved in an old way; wrappers and the prefix of the base are known
    (names.py).

    Of config.json, ``implemented`` lists the values of behaviour-changing keys that the graph computes, ``inert`` the
    keys that change nothing, ``unread`` those that the classes of Transformers do not read though people write them,
    ``outer`` those that count around the configuration of a text model, ``constants`` what an exported file says beyond
    the configuration. ``normalized`` rewrites config.json, with what Transformers assumes for
    absent keys, before anything is read (what families spell in their own way), ``spelled`` does the opposite
    for an export. ``notices`` says of a configuration what other readers of the file will compute differently.
    ``recover`` gives fields that a GGUF file holds only as tensors, which it reads by name; ``small`` are the tensors
    that a checkpoint holds in place of keys, by what the configuration calls these in config.json. ``variant`` gives
    the family that a configuration of its classes means, where it is another one, ``file_variant`` the one that a
    file of this architecture was made of (its metadata and names of tensors). ``file_keys`` are keys of such a file,
    below the architecture, that the configuration does not hold, and the values that the graph computes (None: it does
    not depend on them).
    """

    name: str
    config: type[Config]
    graph: Callable[[Config], Graph]
    origins: Mapping[str, Origin]
    layers: str = "model.layers.{i}."
    mtp_origins: Mapping[str, Origin] = _NONE
    mtp_layers: str | None = None
    ignored: tuple[str, ...] = ()
    left_out: Mapping[str, str] = _NONE
    renamed: tuple[tuple[str, str], ...] = NESTED_NAMES
    implemented: Mapping[str, tuple[Any, ...]] = _NONE
    inert: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    outer: tuple[str, ...] = ()
    constants: Mapping[str, Any] = _NONE
    normalized: Callable[[dict[str, Any]], dict[str, Any]] = dict
    spelled: Callable[[dict[str, Any]], dict[str, Any]] = dict
    notices: Callable[[Config], list[str]] = lambda _: []
    variant: Callable[[Mapping[str, Any]], Family[Any] | None] | None = None
    file_variant: Callable[[Mapping[str, Any], Collection[str]], Family[Any] | None] | None = None
    file_keys: Mapping[str, tuple[Any, ...] | None] = _NONE
    recover: Callable[[Config, Callable[[str], Floats]], Config] | None = None
    small: Mapping[str, Small] = _NONE

    def from_file(self, metadata: Mapping[str, Any], tensors: Collection[str]) -> Config:
        """The configuration of a GGUF file, by its metadata and the names of its tensors.

        GGUFError where something is missing or malformed, UnsupportedError where the file asks for more than the
        configuration can say.
        """
        c = configs.from_gguf(self.config, self.name, metadata, tensors)
        configs.check_keys(c, self.name, metadata, self.file_keys)
        return c

    def from_config(
        self, values: Mapping[str, Any], ignore: Iterable[str] = (), names: Collection[str] = ()
    ) -> tuple[Config, list[str]]:
        """The configuration of a checkpoint, and what to tell the user about it.

        ``ignore`` names keys to accept unread, ``names`` are the (canonical) names of its tensors, whose presence tells
        what config.json does not say. UnsupportedError on a key or value that may change what the model computes,
        CheckpointError on missing or malformed ones.
        """
        # A run reads no config.json.
        from gguflike.families import assumed, config_json, kinds, registry, rope_settings

        kinds.check_kinds(values)
        model_class = registry.class_of(values)
        text = text_config({**assumed.whole(model_class), **values}, self.outer)
        synonyms = [parameter.key.config for parameter in configs.parameters(self.config)]
        said = config_json.unread_notices(text, self.unread, model_class)
        text = {key: value for key, value in text.items() if key not in self.unread}
        full = self.normalized(assumed.completed(text, model_class, synonyms, self.inert))
        known = config_json.config_keys(self.config) | self.inert
        config_json.check_keys(full, known, self.implemented, frozenset(ignore), model_class)
        c = config_json.from_config(self.config, full, functools.partial(self._holds, names))
        said += rope_settings.notices(full, config_json.config_keys(self.config))
        return c, [*_taken_for(values, model_class), *said, *self.notices(c)]

    def of_config(self, values: Mapping[str, Any]) -> Family[Any]:
        """The family that config.json means: this one, or another that its classes also stand for."""
        from gguflike.families import kinds

        kinds.check_kinds(values)
        return (self.variant(values) if self.variant else None) or self

    def of_file(self, metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any]:
        """The family that a GGUF file was made of: this one, or another that shares its architecture's name."""
        return (self.file_variant(metadata, tensors) if self.file_variant else None) or self

    def bind(self, c: Config, available: Collection[str] | None = None) -> tuple[Binding, ...]:
        """Every tensor of a model with configuration ``c``, in file order. ``available`` are the names of a
        checkpoint's tensors, or their shapes by name, which say how it spells what has several spellings (None: as an
        export writes it)."""
        return tuple(self._bound(place, c, available) for place in _places(self.graph(c)) if place.tensor.used)

    def _bound(self, place: Place, c: Config, available: Collection[str] | None) -> Binding:
        tensor = place.tensor
        origin, prefix = self._origin(tensor, place.layer, available, c)
        if isinstance(origin, Made):
            return Binding(place.name, tensor.shape, (), functools.partial(origin.make, c))
        return Binding(place.name, tensor.shape, tuple(origin.pieces(prefix, tensor, c)))

    def _origin(
        self, tensor: Tensor, layer: int | None, available: Collection[str] | None, c: Any = None
    ) -> tuple[Origin, str]:
        """The origin of a tensor, by its whole role, or by the role without its suffix, and how names in its layer
        begin, which may be the block of a head behind the layers that ``c`` counts. KeyError for what the family does
        not have."""
        prefix = self._prefix(layer, c)
        origins = (self.mtp_origins, self.origins) if _is_of_head(layer, c) else (self.origins,)
        roles = tensor.role, tensor.role.rpartition(".")[0]
        found = next((known[role] for known in origins for role in roles if role in known), None)
        if found is None:
            raise KeyError(tensor.role)
        return (found.chosen(prefix, tensor, available) if isinstance(found, Either) else found), prefix

    def _prefix(self, layer: int | None, c: Any = None) -> str:
        """How names begin in a layer, of a model with configuration ``c`` where it may be the block of a head."""
        if layer is None:
            return ""
        if self.mtp_layers is not None and _is_of_head(layer, c):
            return self.mtp_layers.format(i=layer - c.n_layer)
        return self.layers.format(i=layer)

    def hf_names(self, tensor: Tensor, layer: int | None = None, available: Collection[str] | None = None) -> list[str]:
        """What a tensor of a part is called in the checkpoint. Empty for one that is not there."""
        origin, prefix = self._origin(tensor, layer, available)
        return origin.names(prefix, tensor)

    def canonical(self, name: str) -> str:
        """The name that origins give a tensor of a checkpoint, whatever model it is nested in."""
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def _holds(self, names: Collection[str], gguf: str, c: Any) -> bool:
        """Whether a checkpoint with tensors ``names`` has what the tensor ``gguf`` comes from. ``c`` has the fields of
        the configuration that are known."""
        role, layer = role_of(gguf)
        tensor = Tensor(role if role.endswith(".bias") else f"{role}.weight", ())
        try:
            origin, prefix = self._origin(tensor, layer, names, c)
        except KeyError:
            return False
        found = origin.names(prefix, tensor)
        return bool(found) and all(name in names for name in found)

    def ruled_out(self, c: Config, available: Collection[str] | None = None) -> Iterator[str]:
        """Names in the checkpoint of tensors that the configuration says the model does not use (an output matrix that
        is tied to the embedding, say)."""
        for place in _places(self.graph(c)):
            if not place.tensor.used:
                origin, prefix = self._origin(place.tensor, place.layer, available, c)
                yield from origin.names(prefix, place.tensor)

    @functools.cached_property
    def _ignored(self) -> re.Pattern[str]:
        names = (*self.ignored, *(self.layers + small.name for small in self.small.values()))
        return re.compile("|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in names) or r"(?!)")

    def part_left_out(self, hf_name: str, layers: int, further: int) -> str | None:
        """What a tensor of the checkpoint belongs to that is not converted, if it does: of a model of so many
        ``layers`` and ``further`` ones behind them, which predict more than the next token."""
        layer = self.layer_of(hf_name)
        if layer is not None and layers <= layer < layers + further:
            return "what predicts further tokens"
        return next((what for pattern, what in self.left_out.items() if re.match(pattern, hf_name)), None)

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        from gguflike.families import names  # a run knows no checkpoint

        layer, head = self.layers.format(i=0), (self.mtp_layers or self.layers).format(i=0)
        small = (names.masked(layer + each.name) for each in self.small.values())
        known = names.known_names(self.origins, ("", layer))
        of_heads = names.known_names({**self.origins, **self.mtp_origins} if self.mtp_origins else {}, (head,))
        return frozenset((*known, *of_heads, *small))

    def layer_of(self, hf_name: str) -> int | None:
        """The layer of a tensor of the checkpoint; None for one of none."""
        found = self._layer.match(hf_name)
        return int(found[1]) if found else None

    def knows(self, hf_name: str) -> bool:
        """Whether models of the family may have a tensor of that (canonical) name."""
        from gguflike.families import names

        return names.masked(hf_name) in self._known

    def stands_beside(self, hf_name: str) -> bool:
        """Whether a tensor is in no module that the family has one in: a head for training, a second model."""
        return hf_name.partition(".")[0] not in self._modules

    @functools.cached_property
    def _modules(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self._known)

    @functools.cached_property
    def _layer(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.layers).replace(r"\{i\}", "([0-9]{1,9})"))

    def ignores(self, hf_name: str) -> bool:
        """Whether a checkpoint tensor is no weight: nothing that the model computes with, or a hyper-parameter."""
        from gguflike.families import names

        return (self._ignored.fullmatch(hf_name) or names.BUFFERS.fullmatch(hf_name)) is not None

    def small_names(self, key: str, layers: Iterable[int]) -> list[str]:
        """The tensors, in order of ``layers``, that hold a hyper-parameter of ``small``."""
        return [self._prefix(layer) + self.small[key].name for layer in layers]

    def to_config(self, c: Config) -> dict[str, Any]:
        """The part of config.json that describes the model. Inverse of `from_config`."""
        from gguflike.families import assumed, config_json

        return assumed.unassumed(self.spelled({**self.constants, **config_json.to_config(c)}))


def _places(graph: Graph) -> Iterator[Place]:
    """All tensors of a file."""
    yield from graph.tensors()
    yield from graph.mtp_tensors()


def _is_of_head(layer: int | None, c: Any) -> bool:
    """Whether a layer is the block of a head, behind those that ``c`` counts."""
    return layer is not None and c is not None and layer >= c.n_layer


def said(metadata: Mapping[str, Any], key: str) -> int | float | None:
    """The number that a file says, for choosing its family. None for anything else, of which the configuration
    complains."""
    value = metadata.get(key)
    return value if isinstance(value, int | float) else None


def _taken_for(values: Mapping[str, Any], model_class: str) -> list[str]:
    """A notice of the class that config.json means where it names another one, or where its model_type means another:
    what is computed for absent keys, and with those that are there, may differ between the two."""
    from gguflike.families import assumed

    names, kind = values.get("architectures"), values.get("model_type")
    if names and model_class not in names:
        return [f"{', '.join(names)} is taken for {model_class}, as model_type {kind} says"]
    other = assumed.other_class(model_class, kind) if names else None
    if other is None:
        return []
    return [f"taken for {model_class}, as architectures says; by its model_type, {kind}, Transformers makes it {other}"]


def text_config(values: Mapping[str, Any], kept: Iterable[str] = ()) -> dict[str, Any]:
    """config.json with that of its text model, where there is one, in the place of the whole, of which the keys
    ``kept`` stay."""
    nested = next((values[key] for key in configs.NESTED if isinstance(values.get(key), dict)), None)
    if nested is None:
        return dict(values)
    outer = {key: values[key] for key in (*_OUTER, *kept) if key in values}
    return {**nested, **outer}


# What of the whole config.json holds for the text model inside.
_OUTER = ("architectures", "tie_word_embeddings")


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
    if found != shape and _without_ones(found) != _without_ones(shape):
        raise kind("tensor has the wrong shape", path=path, tensor=name, expected=shape, got=found, remedy=remedy)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of one value in front, which some files have and others not."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
