"""Bodies of requests that no server could make sense of."""

from __future__ import annotations

import json
import random
from typing import Any

#: Path -> the parameter that its bodies must have.
REQUIRED = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/messages": "messages",
    "/v1/embeddings": "input",
    "/tokenize": "content",
    "/rerank": "documents",
}
_VALUES: list[Any] = [None, True, -1, 1.5, 10**30, "", [], {}, [None], [[]], [{}], {"a": []}, [1, "a"], ["a", 1], [-1]]
_OTHERS = ["temperature", "stream", "tools", "stop", "n", "model", "seed", "x" * 300, "\u0000", "top_p"]


def nonsense(rng: random.Random) -> tuple[str, bytes, str]:
    """A path, a body for it in which what it must hold is wrong, or missing, or which is no JSON, and how it is
    declared, which now and then is wrong too."""
    path = rng.choice(list(REQUIRED))
    data = _body(rng, path)
    kind = "application/json" if rng.random() < 0.95 else rng.choice(["text/plain", "", "multipart/form-data"])
    return path, data, kind


def _body(rng: random.Random, path: str) -> bytes:
    name = REQUIRED[path]
    wrong = [value for value in _VALUES if not (name in ("content", "input") and value == "")]
    body: dict[str, Any] = {"max_tokens": 1, "query": "q", name: rng.choice(wrong)}
    if rng.random() < 0.3:
        del body[name]
    for _ in range(rng.randrange(3)):
        key = rng.choice(_OTHERS)
        body[key] = rng.choice(_VALUES)
    data = json.dumps(body).encode()
    if rng.random() < 0.4:  # cut, or with a byte changed into one that JSON cannot have there
        at = rng.randrange(1, len(data))
        data = data[:at] if rng.random() < 0.5 else data[:at] + b"\x00\xff" + data[at:]
    return data
