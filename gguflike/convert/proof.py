"""Proof that what was written tokenizes as the source does: the same ids for texts of many scripts, code and markup."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.encoder import Encoder, Part
from gguflike.checkpoint.tokenizer import Reading
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS, BYTE_TOKEN, SPACE, Vocabulary
from gguflike.convert.plan import ConversionPlan
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError

_WHITE_SPACE = (
    " ",
    "  ",
    "\n",
    "\t",
    "a  b   c    d     e      f        g                h",
    "a\tb\t\tc\n\nd\n\n\ne\r\nf\r\n\r\ng \n h\n  i\n\tj\t\nk   \n\n   l",
    "x\u00a0y\u3000z\u2003w\u2028v\u200bu\ufeffq\u00adr\x0bs\x0ct\x85 end   ",
    "line\n",
)
_MOST_MARKUP = 400  # added tokens that are tried
_SMALL = 4000  # tokens of a vocabulary that is tried as a whole
_SAMPLE = 1000  # tokens of a larger one that are tried
_LARGE = 20_000  # tokens from which on it is worth it to leave out of the source what no text needs
_LONG = 8  # characters up to which a token is looked up, not searched for
_SHOWN = 24  # ids of a difference that are shown


def proven(plan: ConversionPlan) -> ConversionPlan:
    """The plan, after the proof of its tokenizer: where it was read leniently, a failure is one more notice."""
    if plan.tokenizer is None:
        return plan
    try:
        prove(plan.tokenizer, {**plan.metadata, **plan.tokenizer.metadata})
    except GGUFLikeError as error:
        if not plan.tokenizer.lenient:
            raise
        return replace(plan, notices=(*plan.notices, f"{error.what}; expected {error.expected}; got {error.got}"))
    return plan


def prove(reading: Reading, metadata: Mapping[str, Any]) -> None:
    """Encode the bundled texts, markup and words of the vocabulary with the source's tokenizer and with ``metadata``.

    UnsupportedError shows the shortest text found whose ids differ, and both; CheckpointError says that ``tokenizers``
    cannot read the source's.
    """
    vocabulary = Vocabulary.from_metadata(metadata)
    markup = [entry["content"] for entry in reading.reference["added_tokens"]]
    texts = [*corpus(), *_WHITE_SPACE, *_words(vocabulary), *reading.words]
    marked = list(_marked(markup))
    source = _source(reading, [*texts, *marked])
    ours = Encoder(vocabulary).ready_for([*texts, *marked])
    for parse_special in (True,) if vocabulary.finds_markup else (True, False):
        source.encode_special_tokens = not parse_special
        tried = [*texts, *marked] if parse_special else [texts[-1], *marked]  # which differ where there is markup
        theirs, written = _encoded(source, tried, reading), ours(tried, reading.surrounded, parse_special)
        for text, a, b in zip(tried, theirs, written, strict=True):
            if a != b:
                _differ(text, reading, vocabulary, source, ours, parse_special)


def corpus() -> list[str]:
    """The bundled texts: some sixty scripts, code, numbers, symbols. They are normalized to NFC."""
    data = resources.files("gguflike").joinpath("data").joinpath("tokens.txt").read_text(encoding="utf-8")
    return data.removesuffix("\n").split("\n%\n")


def _marked(markup: Sequence[str]) -> Iterator[str]:
    """Markup at the start, in words, with spaces and line breaks around it, and one behind the other."""
    if len(markup) > _MOST_MARKUP:
        markup = [*markup[: _MOST_MARKUP // 2], *markup[-_MOST_MARKUP // 2 :]]
    for at in range(0, len(markup), 20):
        some = markup[at : at + 20]
        yield "".join(f"{token}a {token} B\n{token}" for token in some) + "".join(some)


def _words(vocabulary: Vocabulary) -> Iterator[str]:
    """Tokens of the vocabulary as text: all, or a sample of a large one."""
    count = len(vocabulary.texts)
    step = 1 if count <= _SMALL else count // _SAMPLE
    taken: list[str] = []
    for index in range(0, count, step):
        text = vocabulary.written(index)
        if vocabulary.bytewise:
            try:
                text = bytes(map(BYTE_CHARACTERS.index, text)).decode()
            except ValueError:  # half of a character, or no bytes at all
                continue
        taken.append(text.removeprefix("##").replace(SPACE, " "))
    for at in range(0, len(taken), 50):
        yield "".join(taken[at : at + 50])
        yield "\n".join(taken[at : at + 50])


def _source(reading: Reading, texts: Sequence[str]) -> Any:
    """The source as the library has it, without what no text needs of a large vocabulary."""
    from tokenizers import Tokenizer

    document = reading.reference
    model = document["model"]
    if model.get("type", "BPE") == "BPE" and len(model["vocab"]) > _LARGE:
        document = _reduced(document, texts)
    try:
        return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    except Exception as error:  # tokenizers raises bare Exception for whatever it does not like
        raise CheckpointError("tokenizers cannot read it", path=reading.path, got=str(error)[:300]) from error


def _encoded(source: Any, batch: Sequence[str], reading: Reading) -> list[list[int]]:
    try:
        return [source.encode(text, add_special_tokens=reading.surrounded).ids for text in batch]
    except Exception as error:
        raise CheckpointError("tokenizers cannot encode with it", path=reading.path, got=str(error)[:300]) from error


def _reduced(document: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """A BPE with the tokens that stand in ``texts``: all that joining characters can come by."""
    steps = pretokenizers.flatten(document["normalizer"], "normalizers")
    if any(step.get("type") not in ("Prepend", "Replace") for step in steps):
        return dict(document)
    if any(s.get("type") == "ByteLevel" for s in pretokenizers.flatten(document["pre_tokenizer"])):
        written = ["".join(map(BYTE_CHARACTERS.__getitem__, f" {text}".encode())) for text in texts]
    else:
        written = [SPACE + text.replace(" ", SPACE) for text in texts]
    everything = "\n".join(written)
    pieces = {everything[at : at + size] for size in range(1, _LONG + 1) for at in range(len(everything) - size + 1)}
    always = {entry["content"] for entry in document["added_tokens"]} | {document["model"].get("unk_token")}

    def needed(token: str) -> bool:
        if len(token) <= _LONG:
            return token in pieces or token in always or BYTE_TOKEN.fullmatch(token) is not None
        return (token[:_LONG] in pieces and token[-_LONG:] in pieces and token in everything) or token in always

    vocab = {token: index for token, index in document["model"]["vocab"].items() if needed(token)}
    merges = []
    for merge in document["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left in vocab and right in vocab and left + right in vocab:
            merges.append([left, right])
    return {**document, "model": {**document["model"], "vocab": vocab, "merges": merges}}


def _differ(text: str, reading: Reading, vocabulary: Vocabulary, source: Any, ours: Part, parse_special: bool) -> None:
    """Raise with a part of ``text`` that is as short as can be, and whose ids differ by themselves."""

    def differ(part: str) -> bool:
        return _encoded(source, [part], reading) != ours([part], reading.surrounded, parse_special)

    step, part = len(text) // 2, text
    while step:
        shorter = next((cut for cut in (part[step:], part[:-step]) if differ(cut)), None)
        part, step = (part, step // 2) if shorter is None else (shorter, min(step, len(shorter) // 2))
    for shown in (part, text):  # what the texts as a whole need of the vocabularies may not be all that a part does
        source = _source(reading, [shown])
        source.encode_special_tokens = not parse_special
        (a,) = _encoded(source, [shown], reading)
        (b,) = Encoder(vocabulary).ready_for([shown])([shown], reading.surrounded, parse_special)
        if a != b:
            break
    first = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, first - 4) if max(len(a), len(b)) > _SHOWN else 0
    raise UnsupportedError(
        f"what the file says gives other token ids than the source for {shown[:120]!r}",
        path=reading.path,
        expected=_ids(a, start),
        got=_ids(b, start),
        remedy="to convert it nevertheless, add `tokenizer_proof='warn'`",
    )


def _ids(ids: list[int], start: int) -> str:
    shown = ", ".join(map(str, ids[start : start + _SHOWN]))
    return f"[{'..., ' if start else ''}{shown}{', ...' if len(ids) > start + _SHOWN else ''}]"
