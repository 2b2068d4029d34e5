"""What a page says of a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.chat.template import MOST_TRIED, render
from gguflike.checkpoint.tokenizer_json import chat_templates
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.container import GGUFFile, TensorInfo
from gguflike.errors import GGUFLikeError, TemplateError
from gguflike.families.parts import role_of
from gguflike.frozen import frozen
from gguflike.inspect.description import describe
from gguflike.inspect.statistics import exponent, sample
from gguflike.inspect.summary import summary
from gguflike.progress import Progress

if TYPE_CHECKING:
    import numpy.typing as npt

SAMPLE = 1 << 15  # weights of a tensor that are looked at
STRETCHES, STRETCHES_ELSEWHERE = 16, 1  # that they lie in: each is a request where the file is elsewhere
BINS = 31  # of a histogram
SPAN = 4.0  # times the root mean square, which a histogram shows to either side
#: Groups of roles: what their names begin with, the first that fits.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("embeddings and head", ("token_embd", "output", "position_embd", "token_types", "per_layer", "cls")),
    ("experts", ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps", "ffn_gate_inp", "exp_probs")),
    ("feed-forward", ("ffn", "post_ffw", "layer_out")),
    ("attention", ("attn", "post_attention", "indexer")),
    ("recurrent", ("ssm", "shortconv", "time_mix", "channel_mix", "conv")),
)
OTHER = "other"
CONVERSATION = (
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a quantized model?"},
    {"role": "assistant", "content": "One whose weights are stored in a few bits each."},
    {"role": "user", "content": "Does it still work?"},
)


class Shape(NamedTuple):
    """How the weights of a tensor are spread, by a sample: counts in BINS bins from -SPAN to SPAN times ``rms``, and
    the largest magnitude."""

    rms: float
    largest: float
    counts: tuple[int, ...]


@frozen
class Part:
    """One tensor: ``role`` and ``layer`` by its name (None: of no layer), the ``group`` of its role, and what of it
    is known. ``error`` is the relative error beside a reference, where there is one."""

    name: str
    role: str
    layer: int | None
    group: str
    type: str
    shape: tuple[int, ...]
    weights: int
    nbytes: int
    bits: float
    values: Shape | None = None
    error: float | None = None


@frozen
class Example:
    """A chat template: its ``source``, and the ``text`` that it makes of CONVERSATION, or the ``problem``."""

    name: str
    source: str
    text: str = ""
    problem: str = ""


@frozen
class Facts:
    """All that a page says. ``summary`` and ``document`` are those of ``gguflike inspect --json``; ``tokens`` are texts
    by id, ``special`` those that are control tokens or the user's own; ``beside`` names what errors are measured
    against, and ``changes`` are what differs from it, each what of it, its name, and how."""

    title: str
    summary: Mapping[str, Any]
    document: Mapping[str, Any]
    parts: tuple[Part, ...]
    examples: tuple[Example, ...]
    tokens: tuple[str, ...]
    special: frozenset[int]
    beside: str | None = None
    changes: tuple[tuple[str, str, str], ...] = ()

    @property
    def layers(self) -> list[int]:
        """The layers that tensors are of by their names: those that are there, however they are numbered."""
        return sorted({part.layer for part in self.parts if part.layer is not None})


def gather(
    file: GGUFFile,
    title: str,
    *,
    errors: Mapping[str, float] | None = None,
    beside: str | None = None,
    changes: Sequence[tuple[str, str, str]] = (),
    progress: Progress | None = None,
) -> Facts:
    """Read what a page says of ``file``: its header, and SAMPLE weights of each tensor.

    ``errors`` are relative errors of tensors by their names, measured against what ``beside`` names, from which
    ``changes`` are the differences. Errors as of `gguflike.inspect.statistics.sample`.
    """
    infos = sorted(file.infos.values(), key=lambda info: role_of(info.name)[1] or 0)
    parts = []
    for number, info in enumerate(infos):
        if progress:
            progress(number, len(infos), info.name)
        parts.append(_part(file, info, (errors or {}).get(info.name)))
    if progress:
        progress(len(infos), len(infos), "")
    try:
        vocabulary = Vocabulary.from_metadata(file.metadata)
    except GGUFLikeError:  # a file without one, or with one that `verify` has something to say of
        vocabulary = None
    tokens = () if vocabulary is None else tuple(vocabulary.tokens)
    special = [] if vocabulary is None else [index for index in range(len(tokens)) if vocabulary.is_special(index)]
    described = describe(file)
    return Facts(
        title=title,
        summary=summary(file, described),
        document=described,
        parts=tuple(parts),
        examples=tuple(_examples(file, vocabulary)),
        tokens=tokens,
        special=frozenset(special),
        beside=beside,
        changes=tuple(changes),
    )


def _part(file: GGUFFile, info: TensorInfo, error: float | None) -> Part:
    role, layer = role_of(info.name)
    return Part(
        name=info.name,
        role=role,
        layer=layer,
        group=group_of(role),
        type=info.format.name,
        shape=info.shape,
        weights=info.weights,
        nbytes=info.nbytes,
        bits=info.bits,
        values=_shape(sample(file, info.name, SAMPLE, STRETCHES_ELSEWHERE if file.fetched else STRETCHES)),
        error=error,
    )


def group_of(role: str) -> str:
    """The group of a role, by what its name begins with; norms are with what they belong to."""
    return next((group for group, names in GROUPS if role.startswith(names)), OTHER)


def _shape(values: npt.NDArray[np.float64]) -> Shape | None:
    values = values[np.isfinite(values)]
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return None
    power = exponent(largest)
    scaled = np.ldexp(values, -power)
    rms = math.sqrt(float(scaled @ scaled) / len(scaled))
    counts, _ = np.histogram(scaled / rms, BINS, (-SPAN, SPAN))
    return Shape(math.ldexp(rms, power), largest, tuple(counts.tolist()))


def _examples(file: GGUFFile, vocabulary: Vocabulary | None) -> Iterator[Example]:
    try:
        templates = chat_templates(file.metadata)
    except GGUFLikeError:
        return
    texts = {}
    for role in ("bos", "eos"):
        index = None if vocabulary is None else vocabulary.special.get(role)
        texts[f"{role}_token"] = "" if index is None or vocabulary is None else vocabulary.tokens[index]
    for name, source in [*templates.items()][:MOST_TRIED]:
        problem = ""
        for messages in (CONVERSATION, CONVERSATION[1:]):  # some take no system message
            variables = {"messages": list(messages), "add_generation_prompt": True, "tools": None, "documents": None}
            try:
                yield Example(name, source, text=render(source, variables | texts))
                break
            except TemplateError as error:
                problem = problem or str(error)
        else:
            yield Example(name, source, problem=problem)
