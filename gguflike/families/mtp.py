"""Heads that predict tokens behind the next (multi-token prediction): the hyper-parameters, names and graphs that
families with such heads share.

A checkpoint or a file may have them or not, whatever its configuration says: the tensors tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families.config import COUNTED, Via, key
from gguflike.families.origins import Named, Origin, Outside
from gguflike.families.parts import Block, Graph, Head, Norm
from gguflike.families.parts.mtp import MTPInput
from gguflike.families.transforms import IDENTITY, Transform
from gguflike.frozen import frozen, replace


def has(role: str, head: int = 0) -> Any:
    """The field that says whether a head, the first unless told otherwise, has a tensor of that role."""
    return key(None, None, tensor=lambda c: f"blk.{c.n_layer + head}.{role}.weight")


def count(
    config: str | None = "num_nextn_predict_layers",
    most: int = COUNTED,
    unsaid: Callable[[Any], int] = lambda c: int(c.has_mtp),
) -> Any:
    """The field of how many heads there are, of which ``most`` are taken, behind a field ``has_mtp`` that says whether
    there are any: ``unsaid``, one, where nothing else is said."""
    return key(
        "nextn_predict_layers",
        config,
        default=unsaid,
        zero=True,
        implied=lambda c: not c.n_mtp,
        via=Via(
            read=lambda c, number: min(number, most) if c.has_mtp else 0,
            parse=lambda c, number: number if c.has_mtp else 0,
            write=lambda c: c.n_mtp or None,
        ),
    )


#: Fields, of each layer, of which files say nothing for those of heads: which have windows, and which have an indexer.
_UNSAID = ("windowed", "indexed")


@frozen
class Headed:
    """Hyper-parameters of models that may have heads, the first of the classes that one is made of: how many there are,
    and what the first has of its own."""

    has_mtp: bool = has("nextn.eh_proj")
    n_mtp: int = count()
    mtp_embedding: bool = has("nextn.embed_tokens")
    mtp_head: bool = has("nextn.shared_head_head")
    mtp_norm: bool = has("nextn.shared_head_norm")

    def of_head(self, field: str) -> Any:
        """What a file says of the layer of a head, where it says it of each layer: that it is none of another kind, and
        as many heads and values as the last layer has. None: nothing, as llama.cpp has it of _UNSAID."""
        if field in _UNSAID:
            return None
        last = getattr(self, field)[-1]
        return False if isinstance(last, bool) else last


#: The names in a checkpoint whose heads stand as layers behind the others.
MTP_NAMES: Mapping[str, Origin] = MappingProxyType(
    {
        "nextn.eh_proj": Named("eh_proj"),
        "nextn.enorm": Named("enorm"),
        "nextn.hnorm": Named("hnorm"),
        "nextn.embed_tokens": Named("embed_tokens"),
        "nextn.shared_head_head": Named("shared_head.head"),
        "nextn.shared_head_norm": Named("shared_head.norm"),
    }
)


#: How names in the block of a head begin that stands apart.
MTP_LAYERS = "mtp.layers.{i}."


def apart(via: Transform = IDENTITY) -> Mapping[str, Origin]:
    """The names of one head that stands apart, in a module ``mtp``. ``via`` is what happens to the values of norms."""
    return {
        "nextn.eh_proj": Outside(Named("mtp.fc")),
        "nextn.enorm": Outside(Named("mtp.pre_fc_norm_embedding", via)),
        "nextn.hnorm": Outside(Named("mtp.pre_fc_norm_hidden", via)),
        "nextn.embed_tokens": Outside(Named("mtp.embed_tokens")),
        "nextn.shared_head_head": Outside(Named("mtp.lm_head")),
        "nextn.shared_head_norm": Outside(Named("mtp.norm", via)),
    }


def with_mtp(
    c: Any, graph: Graph, block: Callable[[int], Block], norm: Norm | None = None, *, normed: bool = True
) -> Graph:
    """The graph with the heads of its configuration, each of the ``block`` that its layer has. Embedding, last norm and
    output matrix are the model's where a head has none of its own; ``norm`` is its own last norm, where that is
    another than the model's under the usual name. ``normed`` as of `MTPInput`."""
    assert graph.norm is not None
    own = norm or replace(graph.norm, role="nextn.shared_head_norm")
    return replace(
        graph, mtp=tuple(_head(c, graph, c.n_layer + number, block, own, normed) for number in range(c.n_mtp))
    )


def _head(c: Any, graph: Graph, layer: int, block: Callable[[int], Block], own: Norm, normed: bool) -> Graph:
    embedding, norm, head = graph.embedding, graph.norm, graph.head
    assert norm is not None
    assert isinstance(head, Head)
    first = MTPInput(layer, c.n_embd, c.norm_eps, normed, norm.kind)
    if c.mtp_embedding:
        embedding = replace(embedding, role=f"{first.prefix}embed_tokens")
    if c.mtp_norm:
        norm = replace(own, role=f"blk.{layer}.{own.role}")
    if c.mtp_head:
        head = replace(head, role=f"{first.prefix}shared_head_head", tied=False)
    return Graph(embedding, (block(layer),), norm, head, (first,), first=layer)
