"""What endpoints work with: the server's settings, models and counters; the request's parameters, turned into what the
engine takes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from gguflike.errors import ArgumentError, ArgumentTypeError
from gguflike.frozen import frozen
from gguflike.runner.sampling import ALIASES, ORDER
from gguflike.serve.errors import refused, too_long
from gguflike.serve.line import Texts
from gguflike.serve.metrics import Metrics
from gguflike.serve.models import Loaded, Models
from gguflike.serve.parameters import SAMPLING, SWITCHES
from gguflike.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from gguflike.engine import Request as Job
    from gguflike.grammar import Source
    from gguflike.runner import Generation, Model
    from gguflike.runner.sampling import Sampling

Made = TypeVar("Made")


@frozen
class Server:
    """What all endpoints share."""

    settings: Settings
    models: Models
    metrics: Metrics
    texts: Texts


def new_id(prefix: str) -> str:
    """An id that no other answer has."""
    return f"{prefix}{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970, as answers tell when they were made."""
    return int(time.time())


def sampling_of(values: Mapping[str, Any], server: Server, loaded: Loaded, number: int) -> Sampling:
    """How a request wants tokens chosen for a choice, over what the server was started with: its seed is the seed and
    its number."""
    from gguflike.runner.sampling import Sampling

    fields: dict[str, Any] = dict(server.settings.sampling)
    for row in SAMPLING:
        name = row.to or row.name
        if name in values:
            fields[name] = values[name]
    if "logit_bias" in values:
        fields["logit_bias"] = _bias(values["logit_bias"], loaded.model)
    for name in ("top_k", "top_n_sigma"):
        if name in fields:
            fields[name] = max(fields[name], 0)  # some say -1 for "off"
    for name in ("top_p", "typical_p"):
        if name in fields:
            fields[name] = max(fields[name], 1e-9)  # 0 is said by some, and leaves the likeliest
    if "order" in fields:
        fields["order"] = tuple(ALIASES.get(step, step) for step in fields["order"])
        _leave_out(fields, values)
    if "dry_sequence_breakers" in fields:
        fields["dry_sequence_breakers"] = tuple(fields["dry_sequence_breakers"])
    seed = fields.pop("seed", None)
    if seed is not None and seed >= 0:
        fields["seed"] = (seed + number) % (1 << 64)
    try:
        return Sampling(**fields)
    except (ArgumentError, ArgumentTypeError) as error:
        name = error.field or "sampling"
        raise refused("samplers" if name == "order" else name, str(error).removeprefix(f"{name}: ")) from None


def _leave_out(fields: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Switch the steps off that a request leaves out and only the server was started with."""
    for step in set(ORDER).difference(fields["order"]):
        for name in SWITCHES.get(step, (step,)):
            if name not in values:
                fields.pop(name, None)
                if name == "temperature":
                    fields[name] = 1.0


def _bias(value: Any, model: Model) -> dict[int, float]:
    """Biases by token ids. A text that is no number stands for each of its tokens, as with llama-server."""
    pairs = value.items() if isinstance(value, Mapping) else [tuple(each) for each in value]
    made = {}
    for token, bias in pairs:
        if isinstance(token, str) and token.isdecimal() and len(token) < 10:
            tokens: list[Any] = [int(token)]
        else:
            tokens = model.tokenizer.encode(token, False, False) if isinstance(token, str) else [token]
        for number in tokens:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < model.vocab_size:
                what = f"expected token ids from 0 to {model.vocab_size - 1}, or texts, got {str(token)[:40]!r}"
                raise refused("logit_bias", what)
            if bias is False:
                made[number] = float("-inf")
            elif isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100:
                made[number] = float("-inf") if bias == -100 else float(bias)  # by which OpenAI's clients ban
            else:
                raise refused("logit_bias", f"expected numbers from -100 to 100, got {str(bias)[:40]}")
    return made


def check_ids(ids: Sequence[int], size: int, param: str) -> None:
    """400 where a token id is not in a vocabulary of this size."""
    beyond = next((token for token in ids if token >= size), None)
    if beyond is not None:
        raise refused(param, f"token id {beyond} is not in the vocabulary of {size}")


def jobs_of(
    values: Mapping[str, Any],
    server: Server,
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    param: str,
    *,
    choices: int,
    **more: Any,
) -> list[Job]:
    """What the engine is asked for: the choices of the first prompt, of the second, and so on. 400 as of `_job`, which
    takes ``more``."""
    return [
        _job(values, server, loaded, prompt, param, number=number, **more)
        for prompt in prompts
        for number in range(choices)
    ]


def _job(
    values: Mapping[str, Any],
    server: Server,
    loaded: Loaded,
    prompt: Sequence[int],
    param: str,
    *,
    number: int,
    constraint: Source | None,
    **more: Any,
) -> Job:
    """What the engine is asked for: the choice of this number. 400 where the prompt has no room, names no token or is
    empty."""
    from gguflike.engine import Request as Job

    model = loaded.model
    if not prompt:
        raise refused(param, "the prompt has no tokens")
    if len(prompt) >= model.context:
        raise too_long(len(prompt), model.context, param)
    stop, limit = values.get("stop", ()), values.get("max_tokens", -1)
    return Job(
        prompt=tuple(prompt),
        max_tokens=None if limit == -1 else limit,
        sampling=sampling_of(values, server, loaded, number),
        stop=tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text),
        lookup=values.get("lookup", 0),
        ignore_end=values.get("ignore_eos", False),
        cache=values.get("cache_prompt", True),
        grammar=None if constraint is None else constraint.start(),
        **more,
    )


def reason_of(generation: Generation) -> str:
    """OpenAI's finish_reason: a full context is a length, too."""
    return "stop" if generation.finish_reason == "stop" else "length"


def usage(prompt: int, generations: list[Generation], reasoning: int = 0) -> dict[str, Any]:
    """OpenAI's ``usage`` of one prompt and all its choices, of whose tokens so many were ``reasoning``."""
    completion = sum(len(each.tokens) for each in generations)
    cached = max((each.cached_tokens for each in generations), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def timings(generation: Generation) -> dict[str, Any]:
    """llama-server's ``timings``. The first token comes with the prompt: what is generated is timed from there."""
    computed = generation.prompt_tokens - generation.cached_tokens
    prompt_ms, predicted_ms = generation.prefill_seconds * 1e3, generation.decode_seconds * 1e3
    predicted = len(generation.tokens)
    return {
        "cache_n": generation.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(computed, 1),
        "prompt_per_second": generation.prefill_tokens_per_s,
        "predicted_n": predicted,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / (predicted - 1) if predicted > 1 else 0.0,
        "predicted_per_second": generation.decode_tokens_per_s,
    }


class Call:
    """One request, and the parameters that the endpoint's table found in its body."""

    def __init__(self, server: Server, request: Request, values: dict[str, Any], size: int) -> None:
        """``size``: bytes of the request's body."""
        self.server, self.request, self.values, self._size = server, request, values, size

    @property
    def receive(self) -> Receive:
        return self.request.receive

    def loaded(self) -> AbstractAsyncContextManager[Loaded]:
        """The model that is asked for, in use until the block ends."""
        return self.server.models.using(self.values.get("model"))

    async def texts_done(self, work: Callable[[], Made]) -> Made:
        """What ``work`` on the texts of this request comes to, on another thread."""
        return await self.server.texts(work, self._size)
