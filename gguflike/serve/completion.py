"""/completion: texts continued as llama-server has it, for programs written for that one."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.engine.events import Finished, Prefilled, Token
from gguflike.runner.sampling import ALIASES
from gguflike.serve import logprobs, sse
from gguflike.serve.answering import Answers
from gguflike.serve.constraints import constraint_of_text
from gguflike.serve.context import Call, check_ids, jobs_of, sampling_of, timings
from gguflike.serve.errors import refused
from gguflike.serve.models import Loaded
from gguflike.serve.openai.chat import LIMIT, MOST_CHOICES
from gguflike.serve.parameters import (
    BOOLEAN,
    COMMON,
    ELSEWHERE,
    HARMLESS,
    MOST_PROMPTS,
    OBJECT,
    STOP,
    STRING,
    STRINGS,
    TOKEN,
    Parameter,
    either,
    ignored,
    integer,
    not_done,
    unique,
)
from gguflike.serve.speaking import submitted

if TYPE_CHECKING:
    from gguflike.engine import Request
    from gguflike.runner import Generation
    from gguflike.runner.tokenizer import Tokenizer

_ONE = either(TOKEN, STRING)
_PROMPT = either(STRING, OBJECT, {"type": "array", "items": either(_ONE, OBJECT, {"type": "array", "items": _ONE})})

TABLE = unique(
    (
        Parameter(
            "prompt",
            _PROMPT,
            "A text, token ids, both mixed, or an object with a prompt_string; or several of these. Markup in texts is "
            "taken for the tokens that it names",
            required=True,
        ),
        *COMMON,
        Parameter("n_predict", LIMIT, "Tokens at most; without, and -1: until the end", to="max_tokens"),
        Parameter("max_tokens", LIMIT, "The same"),
        STOP,
        Parameter("n_cmpl", integer(1, MOST_CHOICES), "How many continuations of each prompt", to="n"),
        Parameter("n", integer(1, MOST_CHOICES), "The same"),
        Parameter("n_probs", integer(0, 100), "Tell how likely each token was, and so many of the likeliest"),
        Parameter("return_tokens", BOOLEAN, "Tell the ids of tokens; streams always do"),
        Parameter("response_fields", STRINGS, "What of the answer is sent; a/b is b of a"),
        Parameter("return_progress", BOOLEAN, "Tell in events how much of the prompt is done"),
        Parameter("json_schema", OBJECT, "The schema of what the text must be JSON of"),
        Parameter("grammar", STRING, "What the text must be, in GBNF or Lark"),
    ),
    not_done(
        {
            "post_sampling_probs": "logprobs are the model's own, before sampling",
            "n_indent": "use grammar",
            "min_keep": "steps of sampling keep what they keep",
            "t_max_predict_ms": "use n_predict",
        },
        0,
    ),
    ELSEWHERE,
    ignored("n_keep", "n_discard", "n_cache_reuse", "timings_per_token", "sse_ping_interval", "backend_sampling"),
    ignored("dynatemp_exponent", "adaptive_decay"),
    HARMLESS,
)


class _Plan(NamedTuple):
    """Prompts as tokens, whether a list of answers is expected, and what is told of the settings of each choice."""

    prompts: list[list[int]]
    listed: bool
    settings: list[dict[str, Any]]


async def handle(call: Call) -> Any:
    values = call.values
    n = values.get("n", 1)

    def prepare(loaded: Loaded) -> tuple[_Plan, list[Request]]:
        given, listed = _prompts(values["prompt"])
        prompts = [_ids(each, loaded) for each in given]
        source = constraint_of_text(loaded.model, values.get("json_schema"), values.get("grammar") or None)
        more: dict[str, Any] = {"constraint": source, "logprobs": values.get("n_probs") or None}
        jobs = jobs_of(values, call.server, loaded, prompts, "prompt", choices=n, **more)
        settings = [_settings(call, loaded, number) for number in range(n)]
        return _Plan(prompts, listed or n > 1, settings), jobs

    making = submitted(call, prepare)
    if not values.get("stream"):
        return await sse.while_connected(call.receive, _whole(call, making, n))
    loaded, plan, answers = await making
    return sse.EventStream(
        _events(call, loaded, plan, answers, n), lambda error: sse.data(error.openai()), answers.close
    )


def _prompts(given: Any) -> tuple[list[Any], bool]:
    """Prompts, and whether there may be several. A list with token ids in it is one of them."""
    if not isinstance(given, list) or any(isinstance(each, int) for each in given):
        return [given], False
    if not 1 <= len(given) <= MOST_PROMPTS:
        raise refused("prompt", f"expected 1 to {MOST_PROMPTS} prompts, got {len(given)}")
    return given, True


def _ids(given: Any, loaded: Loaded) -> list[int]:
    """The token ids of one prompt."""
    tokenizer = loaded.model.tokenizer
    if isinstance(given, dict):
        if given.get("multimodal_data"):
            raise refused("prompt", "multimodal_data: only text is understood", code="unsupported_parameter")
        given = given.get("prompt_string")
        if not isinstance(given, str):
            raise refused("prompt", "an object must have a prompt_string, which is a text")
    if isinstance(given, str):
        return tokenizer.encode(given, True, True)
    ids: list[int] = []
    for place, each in enumerate(given):
        if isinstance(each, str):
            ids += tokenizer.encode(each, place == 0, True)
        elif isinstance(each, int):
            ids.append(each)
        else:
            raise refused("prompt", "a prompt of token ids and texts has nothing else in it")
    check_ids(ids, loaded.model.vocab_size, "prompt")
    return ids


def _settings(call: Call, loaded: Loaded, number: int) -> dict[str, Any]:
    """How tokens are chosen, in llama-server's words."""
    values, names = call.values, {ours: theirs for theirs, ours in ALIASES.items()}
    sampling = sampling_of(values, call.server, loaded, number)
    told = dict(sampling.__dict__)
    biases = dict(told.pop("logit_bias"))
    if values.get("ignore_eos"):
        biases |= dict.fromkeys(loaded.model.tokenizer.eos_ids, -math.inf)
    limit = values.get("max_tokens", -1)
    return {
        **told,
        "seed": -1 if sampling.seed is None else sampling.seed,
        "repeat_penalty": told.pop("repetition_penalty"),
        "repeat_last_n": told.pop("penalty_last_n"),
        "samplers": [names.get(step, step) for step in told.pop("order")],
        "logit_bias": [
            {"token": token, "bias": bias if math.isfinite(bias) else None} for token, bias in sorted(biases.items())
        ],
        "stop": values.get("stop", []),
        "ignore_eos": values.get("ignore_eos", False),
        "n_predict": limit,
        "max_tokens": limit,
        "n_probs": values.get("n_probs", 0),
        "stream": values.get("stream", False),
        "grammar": values.get("grammar", ""),
        "n_ctx": loaded.model.context,
    }


async def _whole(call: Call, making: Any, n: int) -> dict[str, Any] | list[dict[str, Any]]:
    loaded, plan, answers = await making
    made = []
    for index, (generation, tokens) in enumerate(await answers.whole()):
        document = _document(loaded, plan, index, n, generation, generation.text)
        if call.values.get("return_tokens"):
            document["tokens"] = generation.tokens
        if call.values.get("n_probs"):
            document["completion_probabilities"] = _likely(loaded.model.tokenizer, tokens)
        made.append(_chosen(document, call.values.get("response_fields") or ()))
    return made if plan.listed else made[0]


async def _events(call: Call, loaded: Loaded, plan: _Plan, answers: Answers, n: int) -> AsyncIterator[bytes]:
    fields, progress = call.values.get("response_fields") or (), call.values.get("return_progress", False)
    tokenizer, with_likely = loaded.model.tokenizer, bool(call.values.get("n_probs"))
    counts: dict[int, int] = {}
    rests: dict[int, str] = {}  # what was held back when a text ended

    def piece(index: int, text: str, tokens: Sequence[Token], **more: Any) -> bytes:
        ids = [token.id for token in tokens]
        counts[index] = counts.get(index, 0) + len(ids)
        told = {"tokens_predicted": counts[index], "tokens_evaluated": len(plan.prompts[index // n])}
        if with_likely:
            more["completion_probabilities"] = _likely(tokenizer, tokens)
        return sse.data({"index": index, "content": text, "tokens": ids, "stop": False, "id_slot": -1, **told, **more})

    async for events in answers:
        said: list[bytes] = []
        for index, event in events:
            if isinstance(event, Finished):
                document = _document(loaded, plan, index, n, event.generation, rests.get(index, ""))
                said.append(sse.data(_chosen(document, fields)))
            elif isinstance(event, Token) and event.id is None:
                rests[index] = event.text
            elif isinstance(event, Token):
                said.append(piece(index, event.text, [event]))
            elif progress and isinstance(event, Prefilled):
                done = {"total": event.total, "cache": event.held, "processed": event.done}
                said.append(piece(index, "", [], prompt_progress=done))
        if said:
            yield b"".join(said)


def _document(loaded: Loaded, plan: _Plan, index: int, n: int, generation: Generation, text: str) -> dict[str, Any]:
    """What is told of a text at its end."""
    prompt = plan.prompts[index // n]
    return {
        "index": index,
        "content": text,
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": loaded.name,
        "tokens_predicted": len(generation.tokens),
        "tokens_evaluated": len(prompt),
        "generation_settings": plan.settings[index % n],
        "prompt": loaded.model.tokenizer.decode(prompt),
        "has_new_line": "\n" in generation.text,
        "truncated": generation.finish_reason == "context",
        "stop_type": _stop_type(generation),
        "stopping_word": generation.stop or "",
        "tokens_cached": generation.cached_tokens,
        "timings": timings(generation),
    }


def _stop_type(generation: Generation) -> str:
    if generation.stop is not None:
        return "word"
    return "eos" if generation.finish_reason == "stop" else "limit"


def _likely(tokenizer: Tokenizer, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """How likely tokens were, with their ids."""
    chosen = [token for token in tokens if token.id is not None]
    told = logprobs.chat(tokenizer, chosen)
    for token, each in zip(chosen, told, strict=True):
        each["id"] = token.id
        for alternative, about in zip(token.alternatives, each["top_logprobs"], strict=True):
            about["id"] = alternative
    return told


def _chosen(document: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields that are asked for, by what they are asked for; all where none are."""
    if not fields:
        return document
    found: dict[str, Any] = {}
    for field in fields:
        value: Any = document
        for name in field.split("/"):
            value = value.get(name, _NOWHERE) if isinstance(value, Mapping) else _NOWHERE
        if value is not _NOWHERE:
            found[field] = value
    return found


_NOWHERE = object()
