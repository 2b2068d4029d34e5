"""The table of endpoints: routes and the OpenAPI document are made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gguflike.frozen import frozen
from gguflike.serve import anthropic, completion, native
from gguflike.serve.context import Call
from gguflike.serve.openai import chat, completions, listing, responses, vectors
from gguflike.serve.parameters import Table

Handler = Callable[[Call], Awaitable[Any]]


@frozen
class Endpoint:
    """``handler`` gives a document (sent as JSON), bytes with their content type, or a response. ``paths`` after the
    first are other names of it. ``table``: the parameters of its body; without one it takes none."""

    method: str
    paths: tuple[str, ...]
    handler: Handler
    about: str
    table: Table | None = None
    streams: bool = False
    free: bool = False  # needs no key
    bare: bool = False  # the body may be left out


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", ("/v1/models", "/models"), listing.models, "The models that can be asked for"),
    Endpoint("GET", ("/v1/models/{model:path}",), listing.model, "One model"),
    Endpoint(
        "POST",
        ("/v1/chat/completions", "/chat/completions"),
        chat.handle,
        "Answer a conversation",
        chat.TABLE,
        streams=True,
    ),
    Endpoint(
        "POST",
        ("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"),
        chat.count_tokens,
        "Tokens of a conversation",
        chat.TABLE,
    ),
    Endpoint(
        "POST",
        ("/v1/completions", "/completions"),
        completions.handle,
        "Continue texts",
        completions.TABLE,
        streams=True,
    ),
    Endpoint(
        "POST", ("/completion",), completion.handle, "Continue texts (llama-server)", completion.TABLE, streams=True
    ),
    Endpoint(
        "POST",
        ("/v1/responses", "/responses"),
        responses.handle,
        "Answer a conversation",
        responses.TABLE,
        streams=True,
    ),
    Endpoint("POST", ("/v1/embeddings", "/embeddings"), vectors.embeddings, "Vectors of texts", vectors.EMBEDDINGS),
    Endpoint(
        "POST",
        ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"),
        vectors.rerank,
        "Sort documents by how well they answer a query",
        vectors.RERANK,
    ),
    Endpoint(
        "POST",
        ("/v1/messages",),
        anthropic.messages,
        "Answer a conversation (Anthropic)",
        anthropic.TABLE,
        streams=True,
    ),
    Endpoint(
        "POST",
        ("/v1/messages/count_tokens",),
        anthropic.count_tokens,
        "Tokens of a conversation (Anthropic)",
        anthropic.COUNTED,
    ),
    Endpoint("POST", ("/tokenize",), native.tokenize, "Token ids of a text", native.TOKENIZE),
    Endpoint("POST", ("/detokenize",), native.detokenize, "The text of token ids", native.DETOKENIZE),
    Endpoint("POST", ("/apply-template",), native.apply_template, "The prompt of a conversation", native.TEMPLATE),
    Endpoint("GET", ("/health", "/v1/health"), native.health, "Whether the server can work", free=True),
    Endpoint("GET", ("/metrics",), native.metrics, "Counters for Prometheus"),
    Endpoint("GET", ("/slots",), native.slots, "The places for texts, and what is being computed"),
    Endpoint(
        "POST",
        ("/slots/{slot}",),
        native.keep_slot,
        "Save, restore or erase (?action=...) what a free slot holds",
        native.SLOT,
        bare=True,
    ),
    Endpoint("GET", ("/props",), native.props, "What requests start from"),
)
