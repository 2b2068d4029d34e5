"""What is neither OpenAI's nor Anthropic's, as llama-server has it: tokens, templates, how the server is doing."""

from __future__ import annotations

import asyncio
from typing import Any

from gguflike import __version__
from gguflike.serve import conversation
from gguflike.serve.context import Call
from gguflike.serve.errors import ApiError, refused
from gguflike.serve.metrics import CONTENT_TYPE
from gguflike.serve.models import Loaded
from gguflike.serve.openai.chat import talk_of
from gguflike.serve.parameters import BOOLEAN, OBJECT, STRING, Parameter, integer

Numbers = dict[str, tuple[str, float]]

_MODEL = Parameter("model", STRING, "Which of the models")

TOKENIZE = (
    Parameter("content", STRING, "The text"),
    Parameter("prompt", STRING, "The same, as vLLM has it", to="content"),
    _MODEL,
    Parameter("add_special", BOOLEAN, "Add the tokens that the file wants around a text"),
    Parameter("add_special_tokens", BOOLEAN, "The same, as vLLM has it", to="add_special"),
    Parameter("parse_special", BOOLEAN, "Take markup such as <|im_end|> in the text for the token that it names"),
    Parameter("with_pieces", BOOLEAN, "Tell the text of each token, or its bytes where that is no text"),
)
DETOKENIZE = (
    Parameter("tokens", {"type": "array", "items": integer(0, (1 << 31) - 1)}, "Token ids", required=True),
    _MODEL,
)
TEMPLATE = (
    Parameter("messages", conversation.MESSAGES, "The conversation", required=True),
    _MODEL,
    Parameter("tools", conversation.TOOLS, "Functions that the model may call"),
    Parameter("chat_template_kwargs", OBJECT, "Variables for the template"),
    Parameter("continue_final_message", BOOLEAN, "Go on with the last message, the assistant's"),
)


async def tokenize(call: Call) -> dict[str, Any]:
    values = call.values
    if "content" not in values:
        raise refused("content", "required, but missing", code="missing_required_parameter")
    loaded = await call.server.models.acquire(values.get("model"))
    try:
        tokenizer = loaded.model.tokenizer
        ids = await asyncio.to_thread(
            tokenizer.encode, values["content"], values.get("add_special", False), values.get("parse_special", False)
        )
        if not values.get("with_pieces"):
            return {"tokens": ids, "count": len(ids), "max_model_len": loaded.model.context}
        pieces = [{"id": token, "piece": _piece(tokenizer.token_bytes(token))} for token in ids]
        return {"tokens": pieces, "count": len(ids), "max_model_len": loaded.model.context}
    finally:
        loaded.release()


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(call: Call) -> dict[str, Any]:
    loaded = await call.server.models.acquire(call.values.get("model"))
    try:
        size = loaded.model.tokenizer.vocab_size
        beyond = [token for token in call.values["tokens"] if token >= size]
        if beyond:
            raise refused("tokens", f"token id {beyond[0]} is not in the vocabulary of {size}")
        text = await asyncio.to_thread(loaded.model.detokenize, call.values["tokens"])
    finally:
        loaded.release()
    return {"content": text, "prompt": text}


async def apply_template(call: Call) -> dict[str, Any]:
    loaded = await call.server.models.acquire(call.values.get("model"))
    try:
        plan = await asyncio.to_thread(conversation.prepared, loaded.model, talk_of(call.values))
        return {"prompt": plan.text, "tokens": plan.prompt}
    finally:
        loaded.release()


async def health(call: Call) -> dict[str, Any]:
    """200 while the engines work; 503 where one is dead, or makes no step though work waits."""
    wrong = call.server.models.sick()
    if wrong is not None:
        raise ApiError(503, wrong, code="unhealthy", retry_after=10)
    return {"status": "ok"}


async def props(call: Call) -> dict[str, Any]:
    """What requests start from, and what the server can do."""
    settings, models = call.server.settings, call.server.models
    loaded = next(iter(models.loaded), None)
    told: dict[str, Any] = {
        "build_info": f"gguflike {__version__}",
        "default_generation_settings": {"params": dict(settings.sampling)},
        "total_slots": settings.parallel,
        "queue": settings.queue,
        "modalities": {"vision": False, "audio": False},
        "models": {name: any(each.name == name for each in models.loaded) for name in sorted(models.find())},
    }
    if loaded is not None:
        told["default_generation_settings"]["n_ctx"] = loaded.model.context
        told |= {
            "model_alias": loaded.name,
            "chat_template": loaded.model.tokenizer.chat_templates.get("default", ""),
            "n_ctx": loaded.model.context,
        }
    return told


def engines(call: Call) -> list[Loaded]:
    return [each for each in call.server.models.loaded if each.engine is not None]


async def slots(call: Call) -> list[dict[str, Any]]:
    """The texts that are being computed, and places that are free, of every model."""
    told: list[dict[str, Any]] = []
    for loaded in engines(call):
        stats = loaded.engine.stats()  # type: ignore[union-attr]
        for slot in stats.slots:
            about = {"id": len(told), "model": loaded.name, "is_processing": True, "n_ctx": loaded.model.context}
            told.append({**about, **slot._asdict()})
        for _ in range(stats.parallel - len(stats.slots)):
            told.append({"id": len(told), "model": loaded.name, "is_processing": False, "n_ctx": loaded.model.context})
    return told


async def metrics(call: Call) -> tuple[bytes, str]:
    """Counters in Prometheus's text format."""
    stats = [loaded.engine.stats() for loaded in engines(call)]  # type: ignore[union-attr]
    steps, rows = sum(each.steps for each in stats), sum(each.rows for each in stats)
    processing, waiting = sum(len(each.slots) for each in stats), sum(each.waiting for each in stats)
    counters: Numbers = {
        "llamacpp:n_decode_total": ("Passes of the model.", steps),
        "gguflike_rows_total": ("Tokens computed by them.", rows),
        "gguflike_busy_seconds_total": ("Seconds of work.", sum(each.busy_seconds for each in stats)),
        "gguflike_requests_refused_total": ("Texts for which the queue was full.", sum(each.refused for each in stats)),
    }
    gauges: Numbers = {
        "llamacpp:requests_processing": ("Texts being computed.", processing),
        "llamacpp:requests_deferred": ("Texts waiting.", waiting),
        "llamacpp:n_busy_slots_per_decode": ("Tokens in a pass, on average.", rows / max(steps, 1)),
        "gguflike_models_loaded": ("Models in memory.", len(call.server.models.loaded)),
        "gguflike_cache_bytes": ("Bytes kept of texts that ended.", sum(each.cache_bytes for each in stats)),
        "gguflike_cache_limit_bytes": ("And at most.", sum(each.cache_limit for each in stats)),
    }
    return call.server.metrics.text(gauges, counters).encode(), CONTENT_TYPE
