"""What is neither OpenAI's nor Anthropic's, as llama-server has it: tokens, templates, how the server is doing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from gguflike import __version__
from gguflike.errors import CacheError
from gguflike.serve import conversation
from gguflike.serve.context import Call, check_ids
from gguflike.serve.errors import ApiError, refused, told
from gguflike.serve.metrics import CONTENT_TYPE
from gguflike.serve.models import Loaded
from gguflike.serve.openai.chat import GENERATION_PROMPT, talk_of
from gguflike.serve.parameters import BOOLEAN, MODEL, OBJECT, STRING, TOKEN, Parameter
from gguflike.serve.speaking import prompt_of

if TYPE_CHECKING:
    from gguflike.engine import Slot

Numbers = dict[str, tuple[str, float]]

TOKENIZE = (
    Parameter("content", STRING, "The text"),
    Parameter("prompt", STRING, "The same, as vLLM has it", to="content"),
    MODEL,
    Parameter("add_special", BOOLEAN, "Add the tokens that the file wants around a text"),
    Parameter("add_special_tokens", BOOLEAN, "The same, as vLLM has it", to="add_special"),
    Parameter("parse_special", BOOLEAN, "Take markup such as <|im_end|> in the text for the token that it names"),
    Parameter("with_pieces", BOOLEAN, "Tell the text of each token, or its bytes where that is no text"),
)
DETOKENIZE = (
    Parameter("tokens", {"type": "array", "items": TOKEN}, "Token ids", required=True),
    MODEL,
)
SLOT = (
    Parameter("filename", {"type": "string", "minLength": 1}, "A name, no path, in the folder of --slot-save-path"),
    MODEL,
)
TEMPLATE = (
    Parameter("messages", conversation.MESSAGES, "The conversation", required=True),
    MODEL,
    Parameter("tools", conversation.TOOLS, "Functions that the model may call"),
    Parameter("chat_template_kwargs", OBJECT, "Variables for the template"),
    Parameter("continue_final_message", BOOLEAN, "Go on with the last message, the assistant's"),
    GENERATION_PROMPT,
)


async def tokenize(call: Call) -> dict[str, Any]:
    values = call.values
    if "content" not in values:
        raise refused("content", "required, but missing", code="missing_required_parameter")
    async with call.loaded() as loaded:
        tokenizer = loaded.model.tokenizer
        text, special = values["content"], values.get("add_special", False)
        ids = await call.texts_done(lambda: tokenizer.encode(text, special, values.get("parse_special", False)))
        tokens: list[Any] = ids
        if values.get("with_pieces"):
            tokens = [{"id": token, "piece": _piece(tokenizer.token_bytes(token))} for token in ids]
        return {"tokens": tokens, "count": len(ids), "max_model_len": loaded.model.context}


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(call: Call) -> dict[str, Any]:
    async with call.loaded() as loaded:
        check_ids(call.values["tokens"], loaded.model.tokenizer.vocab_size, "tokens")
        text = await call.texts_done(lambda: loaded.model.detokenize(call.values["tokens"]))
    return {"content": text, "prompt": text}


async def apply_template(call: Call) -> dict[str, Any]:
    prompt = await prompt_of(call, talk_of(call.values))
    return {"prompt": prompt.text, "tokens": list(prompt.ids)}


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
        "default_generation_settings": {"params": _as_asked(settings.sampling)},
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


def _as_asked(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as requests have them, where a bias of -100 bans a token: JSON has no infinity."""
    told = dict(sampling)
    if "logit_bias" in told:
        told["logit_bias"] = {str(token): max(bias, -100.0) for token, bias in told["logit_bias"].items()}
    return told


def engines(call: Call) -> list[Loaded]:
    """The loaded models that make text."""
    return [each for each in call.server.models.loaded if each.engine is not None]


async def slots(call: Call) -> list[dict[str, Any]]:
    """The places for texts of every model: what each holds, and what is being computed in it."""
    listed: list[dict[str, Any]] = []
    for loaded in engines(call):
        stats = loaded.engine.stats()  # type: ignore[union-attr]
        working = {slot.number: slot for slot in stats.slots}
        for number, held in enumerate(stats.held):
            about = {"id": number, "model": loaded.name, "n_ctx": loaded.model.context, "n_held": held}
            slot = working.get(number)
            listed.append({**about, "is_processing": slot is not None, **({} if slot is None else _working(slot))})
    return listed


def _working(slot: Slot) -> dict[str, Any]:
    return {
        "id_task": slot.job,
        "n_prompt_tokens": slot.prompt_tokens,
        "n_prompt_tokens_cached": slot.cached_tokens,
        "n_computed": slot.computed,
        "n_decoded": slot.generated,
    }


async def keep_slot(call: Call) -> dict[str, Any]:
    """Save what a free slot holds, restore it, or let it hold nothing."""
    action, given = call.request.query_params.get("action"), call.request.path_params["slot"]
    if action not in ("save", "restore", "erase"):
        raise refused("action", f"expected save, restore or erase in the query, got {str(action)[:40]!r}")
    if call.server.settings.slots_dir is None and action != "erase":
        raise ApiError(501, "slots are not kept: the server was started without --slot-save-path")
    if not (given.isascii() and given.isdecimal() and len(given) < 6):
        raise refused("slot", f"expected a number, got {given[:40]!r}")
    name = call.values.get("filename", "")
    if action != "erase" and not name:
        raise refused("filename", "required, but missing", code="missing_required_parameter")
    async with call.loaded() as loaded:
        if loaded.engine is None:
            raise refused("model", f"{loaded.name} makes no text, so it has no slots")
        begin = time.monotonic()
        if action == "erase":
            return {"id_slot": int(given), "n_erased": await asyncio.to_thread(loaded.engine.erase, int(given))}
        work = loaded.engine.save if action == "save" else loaded.engine.restore
        try:
            count = await asyncio.to_thread(work, int(given), name)
        except CacheError as error:
            raise ApiError(400, told(error), code="slot_not_restored", param="filename") from None
    done = "n_saved" if action == "save" else "n_restored"
    took = round((time.monotonic() - begin) * 1e3, 3)
    return {"id_slot": int(given), "filename": name, done: count, "timings": {f"{action}_ms": took}}


async def metrics(call: Call) -> Response:
    """Counters in Prometheus's text format."""
    stats = [loaded.engine.stats() for loaded in engines(call)]  # type: ignore[union-attr]
    steps, rows = sum(each.steps for each in stats), sum(each.rows for each in stats)
    processing, waiting = sum(len(each.slots) for each in stats), sum(each.waiting for each in stats)
    counters: Numbers = {
        "llamacpp:n_decode_total": ("Passes of the model.", steps + call.server.metrics.encodings),
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
    told = call.server.metrics
    headers = {"process-start-time-unix": str(int(told.started))}
    return Response(told.text(gauges, counters), media_type=CONTENT_TYPE, headers=headers)
