"""A checkpoint as its family reads it: the configuration, where each tensor comes from, what there is to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gguflike.checkpoint import Checkpoint, LazyTensor, card
from gguflike.checkpoint.recognize import unapplied
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.convert import lora as loras
from gguflike.convert import metadata as general
from gguflike.convert.lora import Weighted
from gguflike.convert.matching import by_canonical_name, check_layers, is_tied, match, small_values, tied_or_not
from gguflike.convert.sources import Source
from gguflike.errors import CheckpointError
from gguflike.families import demands, registry
from gguflike.families.family import Family
from gguflike.families.pooling import RANK, answers, pooling_type


class SourceModel(NamedTuple):
    """A model of a ``family`` in a checkpoint, whose ``sources`` are tensors by the names of GGUF, adapters merged.
    ``card`` is what its README says of itself, ``notices`` are what the user should know."""

    family: Family[Any]
    config: Any
    sources: list[Source]
    card: dict[str, Any]
    notices: list[str]


def read_model(opened: Checkpoint, adapters: Sequence[Weighted], ignore_config: Iterable[str]) -> SourceModel:
    """The model of a checkpoint, with ``adapters`` merged; keys of config.json in ``ignore_config`` stay unread.

    UnsupportedError for what no family computes, CheckpointError where config.json, tensors and tokenizer contradict
    each other.
    """
    values = {**opened.config, **opened.dense, **_reranker(opened)}
    if opened.pooling is not None:
        values["pooling_type"] = pooling_type(opened.pooling)
    family = registry.for_config(values)
    available: Mapping[str, LazyTensor] = by_canonical_name(family, opened.tensors)
    values |= small_values(family, available)
    config, of_config = family.from_config(values, ignore_config, available.keys())
    check_layers(config, opened)
    said = [*opened.notices, *demands.notices(family.name, family.graph(config))]
    said += general.unused_settings(opened.generation_config)
    if adapters:
        applied = unapplied(opened.folder) if any(a.adapter.folder.samefile(opened.folder) for a in adapters) else []
        said = [each for each in said if each not in applied]
        available = loras.merge(family, available, adapters, is_tied(family.graph(config)))
    config, available, untied = tied_or_not(family, config, available)
    further = opened.config.get("num_nextn_predict_layers")
    sources, left_out = match(family, config, available, opened.folder, further if isinstance(further, int) else 0)
    told, unread = card.read(opened.folder, general.CARD_KEYS)
    return SourceModel(family, config, sources, told, [*said, *unread, *of_config, *untied, *left_out])


def _reranker(opened: Checkpoint) -> dict[str, Any]:
    """What the family is told of a checkpoint that ranks documents by the words it would answer with.

    CheckpointError where its tokenizer has no such token.
    """
    titles = [line for line in card.text(opened.folder).splitlines() if line.startswith("# ")]
    words = answers([opened.folder.name, opened.source, str(opened.config.get("_name_or_path", "")), *titles])
    if not words:
        return {}
    tokenizer = TokenizerFiles(opened.folder, opened.config)
    vocabulary = tokenizer.model.get("vocab", {})
    missing = [word for word in words if word not in vocabulary]
    if missing:
        raise CheckpointError(
            "the tokenizer lacks a word that this reranker answers with",
            path=tokenizer.path,
            expected=", ".join(words),
            got=f"no {missing[0]!r}",
        )
    return {"pooling_type": RANK, "labels": list(words), "answers": [vocabulary[word] for word in words]}
