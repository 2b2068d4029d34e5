"""/v1/embeddings and /v1/rerank"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gguflike.errors import UnsupportedError
from gguflike.runner.embedding import Tokens, embedder, fitting, of_tokens, paired, ranked, ranker, single
from gguflike.runner.pooling import KINDS
from gguflike.serve import sse
from gguflike.serve.context import Call, check_ids, new_id
from gguflike.serve.errors import refused, text_too_long
from gguflike.serve.models import Loaded
from gguflike.serve.parameters import (
    BOOLEAN,
    MODEL,
    STRING,
    Parameter,
    choice,
    either,
    ignored,
    integer,
    listed,
    not_done,
    texts,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Made = TypeVar("Made")

_MOST_TEXTS = 2048

_FLOATS = "vectors are of floats; encoding_format base64 packs them"
_CUT = not_done({"truncation_direction": "the end of a text is cut"}, "right", "Right")


def _on(name: str, reason: str) -> Parameter:
    """A parameter of other servers that is always true here."""
    return Parameter(name, {}, "", refused=reason, neutral=(None, True))


EMBEDDINGS = (
    Parameter(
        "input",
        texts(_MOST_TEXTS),
        "A text, texts, token ids, or lists of them",
        required=True,
    ),
    MODEL,
    Parameter("encoding_format", choice("float", "base64"), "Numbers, or the bytes of little-endian float32"),
    Parameter("truncate", BOOLEAN, "Cut texts that are longer than the context, which are errors otherwise"),
    Parameter(
        "embd_normalize", {"type": "integer", "enum": [-1, 2]}, "2: vectors of length 1 (as without); -1: as they are"
    ),
    Parameter("dimensions", integer(1, 1 << 20), "The model's own length, which vectors have in any case"),
    Parameter("pooling", choice(*KINDS), "How tokens' vectors become one, where the file does not say it"),
    *not_done(
        {
            "truncate_prompt_tokens": "use truncate",
            "output_dimension": "vectors have the model's own length",
            "late_chunking": "each text is computed by itself",
            "prompt_name": "put the prompt before the text",
        },
    ),
    *not_done({"embedding_type": _FLOATS, "output_dtype": _FLOATS}, "float"),
    *_CUT,
    _on("normalize", "embd_normalize -1 gives vectors as they are"),
    _on("normalized", "embd_normalize -1 gives vectors as they are"),
    _on("add_special_tokens", "send token ids"),
    *ignored("user", "input_type", "task"),
)

RERANK = (
    Parameter("query", STRING, "What documents are to answer", required=True),
    Parameter(
        "documents",
        {
            "type": "array",
            "minItems": 1,
            "maxItems": _MOST_TEXTS,
            "items": either(STRING, {"type": "object", "required": ["text"], "properties": {"text": STRING}}),
        },
        "Texts, or objects with a text; required unless `texts` are given",
    ),
    Parameter(
        "texts",
        {"type": "array", "minItems": 1, "maxItems": _MOST_TEXTS, "items": STRING},
        "The same, as TEI has it, which is answered by a list of index and score",
    ),
    Parameter("return_text", BOOLEAN, "As TEI calls return_documents", to="return_documents"),
    MODEL,
    Parameter("top_n", integer(1, 1 << 31), "How many results; without: all"),
    Parameter("return_documents", BOOLEAN, "Put the text into each result"),
    Parameter("truncate", BOOLEAN, "Cut documents that are longer than the context"),
    *not_done({"rank_fields": "documents are texts", "return_embeddings": "use /v1/embeddings"}, []),
    *_CUT,
    *ignored("user", "max_chunks_per_doc", "max_tokens_per_doc"),
)


async def embeddings(call: Call) -> Any:
    return await sse.while_connected(call.receive, _embedded(call))


async def _embedded(call: Call) -> dict[str, Any]:
    values = call.values
    async with call.loaded() as loaded:
        model, given = loaded.model, listed(values["input"])
        normalize, truncate = values.get("embd_normalize", 2) == 2, values.get("truncate", False)
        wanted, pooling = values.get("dimensions"), values.get("pooling")
        _check_able(loaded, lambda: embedder(model, pooling))
        places = [f"input[{place}]" for place in range(len(given))] if given is values["input"] else ["input"]
        for text, where in zip(given, places, strict=True):
            if text == "":
                raise refused(where, "an empty text")
            if not isinstance(text, str):
                check_ids(text, model.vocab_size, where)

        def tokens(text: str | list[int]) -> Tokens:
            return single(model.tokenizer, text) if isinstance(text, str) else Tokens(text, len(text), 0)

        def vector(text: Tokens) -> npt.NDArray[np.float32]:
            made = of_tokens(model, text.ids, pooling, normalize, truncate=False)
            if wanted not in (None, len(made)):
                raise refused("dimensions", f"vectors have the model's own length, {len(made)}; got {wanted}")
            return made

        texts = [_Text(where, partial(tokens, text), len(text)) for text, where in zip(given, places, strict=True)]
        made, count = await _computed(call, loaded, texts, truncate, vector)
    form = _base64 if values.get("encoding_format") == "base64" else _numbers
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": form(v)} for place, v in enumerate(made)],
        "model": loaded.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


class _Text(NamedTuple):
    """A text of a request: where it stands, what makes its tokens, and about how many bytes it is."""

    where: str
    tokens: Callable[[], Tokens]
    size: int


def _check_able(loaded: Loaded, check: Callable[[], object]) -> None:
    """400 where the model is of another kind than was meant, and errors of ``check`` about parameters."""
    try:
        check()
    except UnsupportedError as error:
        if error.field is not None:
            raise
        raise refused("model", f"{error.what}; got {loaded.name}") from None


async def _computed(
    call: Call, loaded: Loaded, texts: Sequence[_Text], truncate: bool, compute: Callable[[Tokens], Made]
) -> tuple[list[Made], int]:
    """What ``compute`` makes of each text, and how many tokens it was made of: one text by one, of all requests in
    turns, so that what is left is dropped with its client. A text is made to tokens before it is its turn."""
    made, tokens = [], 0
    for text in texts:
        ids = _fitting(loaded, await call.server.texts(text.tokens, text.size), truncate, text.where)
        result, seconds = await loaded.vectors(partial(_timed, compute, ids))
        call.server.metrics.encoded(len(ids.ids), seconds)
        made.append(result)
        tokens += len(ids.ids)
    return made, tokens


def _fitting(loaded: Loaded, tokens: Tokens, truncate: bool, where: str) -> Tokens:
    """The tokens, cut where that is asked for. 400 where there are none, or more than the context holds."""
    if not tokens.ids:
        raise refused(where, "a text without tokens")
    try:
        return fitting(loaded.model, tokens, truncate)
    except UnsupportedError:
        if truncate and tokens.begin < len(tokens.ids):  # the second of two is cut: it is the first that leaves no room
            where = "query"
        raise text_too_long(len(tokens.ids), loaded.model.context, where, truncate) from None


def _timed(compute: Callable[[Tokens], Made], text: Tokens) -> tuple[Made, float]:
    begin = time.monotonic()
    result = compute(text)
    return result, time.monotonic() - begin


def _numbers(vector: npt.NDArray[np.float32]) -> list[float]:
    """The shortest decimals that stand for these float32 values."""
    return [float(str(value)) for value in vector]


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


async def rerank(call: Call) -> Any:
    return await sse.while_connected(call.receive, _ranked(call))


async def _ranked(call: Call) -> dict[str, Any] | list[dict[str, Any]]:
    values = call.values
    given = values.get("documents", values.get("texts"))
    if given is None:
        raise refused("documents", "required, but missing", code="missing_required_parameter")
    if "documents" in values and "texts" in values:
        raise refused("texts", "cannot be given beside documents")
    name = "documents" if "documents" in values else "texts"
    documents = [each if isinstance(each, str) else each["text"] for each in given]
    query = values["query"]
    async with call.loaded() as loaded:
        model = loaded.model
        _check_able(loaded, lambda: ranker(model))
        texts = [
            _Text(f"{name}[{place}]", partial(paired, model.tokenizer, query, document), len(query) + len(document))
            for place, document in enumerate(documents)
        ]

        def score(pair: Tokens) -> float:
            return _numbers(ranked(model, pair))[0]

        scores, tokens = await _computed(call, loaded, texts, values.get("truncate", False), score)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[: values.get("top_n")]
    with_text = values.get("return_documents", False)
    if "documents" not in values:
        return [
            {"index": place, "score": scores[place], **({"text": documents[place]} if with_text else {})}
            for place in order
        ]
    results = []
    for place in order:
        result: dict[str, Any] = {"index": place, "relevance_score": scores[place]}
        if with_text:
            result["document"] = {"text": documents[place]}
        results.append(result)
    return {
        "id": new_id("rerank-"),
        "object": "list",
        "model": loaded.name,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
