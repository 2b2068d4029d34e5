"""/v1/embeddings and /v1/rerank"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gguflike.runner.embedding import of_tokens, ranked, single
from gguflike.runner.pooling import KINDS
from gguflike.serve import sse
from gguflike.serve.context import Call, new_id
from gguflike.serve.errors import refused
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
    texts,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Made = TypeVar("Made")

_MOST_TEXTS = 2048

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
    *ignored("user", "max_chunks_per_doc", "max_tokens_per_doc"),
)


async def embeddings(call: Call) -> Any:
    return await sse.while_connected(call.receive, _embedded(call))


async def _embedded(call: Call) -> dict[str, Any]:
    values = call.values
    async with call.loaded() as loaded:
        given = listed(values["input"])
        if "" in given:
            raise refused("input", "an empty text")
        normalize, truncate = values.get("embd_normalize", 2) == 2, values.get("truncate", False)
        wanted, pooling = values.get("dimensions"), values.get("pooling")

        def vector(text: str | list[int]) -> tuple[npt.NDArray[np.float32], int]:
            ids = single(loaded.model.tokenizer, text).ids if isinstance(text, str) else text
            made = of_tokens(loaded.model, ids, pooling, normalize, truncate)
            if wanted not in (None, len(made)):
                raise refused("dimensions", f"vectors have the model's own length, {len(made)}; got {wanted}")
            return made, len(ids)

        made, tokens = await _computed(call, loaded, vector, given)
    form = _base64 if values.get("encoding_format") == "base64" else _numbers
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": form(v)} for place, v in enumerate(made)],
        "model": loaded.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _computed(
    call: Call, loaded: Loaded, compute: Callable[[Any], tuple[Made, int]], given: list[Any]
) -> tuple[list[Made], int]:
    """What ``compute`` makes of each text, and how many tokens all of them are: one text by one, of all requests in
    turns, so that what is left is dropped with its client."""
    made, tokens = [], 0
    for text in given:
        result, count, seconds = await loaded.vectors(partial(_timed, compute, text))
        call.server.metrics.encoded(count, seconds)
        made.append(result)
        tokens += count
    return made, tokens


def _timed(compute: Callable[[Any], tuple[Made, int]], text: Any) -> tuple[Made, int, float]:
    begin = time.monotonic()
    result, count = compute(text)
    return result, count, time.monotonic() - begin


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
    documents = [each if isinstance(each, str) else each["text"] for each in given]
    truncate = values.get("truncate", False)
    async with call.loaded() as loaded:

        def score(document: str) -> tuple[float, int]:
            found, count = ranked(loaded.model, values["query"], document, truncate)
            return float(str(found)), count

        scores, tokens = await _computed(call, loaded, score, documents)
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
