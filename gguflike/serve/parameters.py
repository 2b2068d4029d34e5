"""What requests may say: tables of parameters, each with its type, its range and what becomes of it.

The same rows check requests and make the OpenAPI document. A parameter that would change the text and is not done is
refused by name; what changes nothing is accepted, and so is a name that no table has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gguflike.frozen import frozen
from gguflike.runner.sampling import ALIASES, ORDER
from gguflike.serve.errors import refused
from gguflike.serve.validation import Schema, checked, nullable

NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
STRING: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
STRINGS: Schema = {"type": "array", "items": STRING}
#: Prompts of one request.
MOST_PROMPTS = 64
#: A count of tokens, as large as any context.
TOKENS: Schema = {"type": "integer", "minimum": 0, "maximum": 1 << 31}


#: The id of a token, of any vocabulary.
TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}


def number(low: float, high: float) -> Schema:
    """A number in a range, its ends included."""
    return {"type": "number", "minimum": low, "maximum": high}


def integer(low: int, high: int) -> Schema:
    """A whole number in a range, its ends included."""
    return {"type": "integer", "minimum": low, "maximum": high}


def choice(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def either(*schemas: Schema) -> Schema:
    """What fits any of these."""
    return {"anyOf": list(schemas)}


def texts(most: int) -> Schema:
    """A text, at most so many texts, token ids, or lists of them: `listed` has them in a list."""
    ids: Schema = {"type": "array", "minItems": 1, "items": TOKEN}
    several: Schema = {"type": "array", "minItems": 1, "maxItems": most}
    return either(STRING, {**several, "items": STRING}, ids, {**several, "items": ids})


def listed(value: Any) -> list[Any]:
    """What `texts` took in a list, of one too."""
    return [value] if isinstance(value, str) or isinstance(value[0], int) else value


#: The fields of ``Sampling`` that switch a step on, where that is not the field of its name.
SWITCHES: Mapping[str, tuple[str, ...]] = {
    "penalties": ("repetition_penalty", "frequency_penalty", "presence_penalty"),
    "dry": ("dry_multiplier",),
    "xtc": ("xtc_probability",),
}


@frozen
class Parameter:
    """``name`` in the request's body; ``to`` is what it is called here, where that differs."""

    name: str
    schema: Schema
    about: str
    to: str = ""
    required: bool = False
    ignored: bool = False  # accepted: it does not change the text
    #: None: it is done. Otherwise why it is not; the values in ``neutral``, which ask for nothing, are accepted.
    refused: str | None = None
    neutral: tuple[Any, ...] = (None, False)


Table = tuple[Parameter, ...]


def parsed(body: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """The parameters that a body gives a value, by what they are called here. 400 names one that is wrong."""
    values: dict[str, Any] = {}
    for row in table:
        value = body.get(row.name)
        if row.refused is not None:
            if row.name in body and not any(value == each and type(value) is type(each) for each in row.neutral):
                raise refused(row.name, f"not supported: {row.refused}", code="unsupported_parameter")
        elif value is None:
            if row.required:
                raise refused(row.name, "required, but missing", code="missing_required_parameter")
        elif not row.ignored:
            values.setdefault(row.to or row.name, checked(value, row.schema, row.name))
    return values


def schema(table: Table) -> dict[str, Any]:
    """The JSON Schema of bodies that a table takes."""
    properties: dict[str, Any] = {}
    for row in table:
        if row.refused is not None:
            properties[row.name] = {"enum": list(row.neutral), "description": f"Not supported: {row.refused}"}
            continue
        about = f"{row.about} (accepted, without effect)" if row.ignored else row.about
        described = {} if row.ignored else nullable(row.schema)
        if not row.required and described:
            described = {"anyOf": [described, {"type": "null"}]}
        properties[row.name] = {**described, "description": about}
    required = [row.name for row in table if row.required]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def ignored(*names: str) -> Table:
    """Parameters that are taken, whatever they say, and change nothing."""
    return tuple(Parameter(name, {}, "For other servers", ignored=True) for name in names)


def not_done(reasons: Mapping[str, str], *neutral: Any) -> Table:
    """Parameters that are refused, each for its reason, unless they are null, false or ``neutral``."""
    return tuple(Parameter(name, {}, "", refused=why, neutral=(None, False, *neutral)) for name, why in reasons.items())


#: How the next token is chosen: the fields of ``Sampling``, under their names and those that other servers have.
SAMPLING: Table = (
    Parameter("temperature", number(0, 1000), "0 takes the likeliest token"),
    Parameter("top_k", integer(-1, 1 << 31), "Sample from the k likeliest; 0 and -1: from all"),
    Parameter("top_p", number(0, 1), "Sample from the likeliest that sum to p; 1: from all"),
    Parameter("min_p", number(0, 1), "Drop what is p times less likely than the likeliest"),
    Parameter("typical_p", number(0, 1), "Keep what is as surprising as expected; 1: off"),
    Parameter("top_n_sigma", number(-1, 1000), "Keep logits within n standard deviations of the largest; 0, -1: off"),
    Parameter("xtc_probability", number(0, 1), "Chance to drop all but the last of the likely tokens; 0: off"),
    Parameter("xtc_threshold", number(0, 1), "Which tokens are likely for that"),
    Parameter("dry_multiplier", number(0, 1000), "Penalty of what would repeat a sequence; 0: off"),
    Parameter("dry_base", number(1, 1000), "How it grows with the length of the sequence"),
    Parameter("dry_allowed_length", integer(1, 1 << 31), "Sequences up to this length may repeat"),
    Parameter("dry_penalty_last_n", integer(-1, 1 << 31), "How many tokens to look at; -1: all, 0: off"),
    Parameter("dry_sequence_breakers", {**STRINGS, "maxItems": 64}, "Texts at which sequences end"),
    Parameter("mirostat", {"type": "integer", "enum": [0, 2]}, "2: keep the surprise of tokens constant"),
    Parameter("mirostat_tau", number(0, 1000), "The surprise that mirostat aims at"),
    Parameter("mirostat_eta", number(0, 1), "How fast it gets there"),
    Parameter("repetition_penalty", number(1e-6, 1e6), "Above 1: what was said becomes less likely"),
    Parameter("repeat_penalty", number(1e-6, 1e6), "The same", to="repetition_penalty"),
    Parameter("frequency_penalty", number(-2, 2), "By how much, for each time that a token was said"),
    Parameter("presence_penalty", number(-2, 2), "By how much, if a token was said"),
    Parameter("penalty_last_n", integer(-1, 1 << 31), "How many tokens the penalties look at; -1: all, 0: none"),
    Parameter("repeat_last_n", integer(-1, 1 << 31), "The same", to="penalty_last_n"),
    Parameter(
        "logit_bias",
        either(
            {"type": "object", "additionalProperties": number(-100, 100)},
            {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},
        ),
        "Token id, or a text for all of its tokens, to what is added to the logit; or a list of pairs, in which false "
        "bans a token",
    ),
    Parameter(
        "samplers",
        {"type": "array", "items": choice(*ORDER, *ALIASES)},
        "The order of the steps; others are off",
        to="order",
    ),
    Parameter("seed", integer(-(1 << 63), (1 << 64) - 1), "Makes the text repeatable; below 0: another text each time"),
)

MODEL = Parameter("model", STRING, "Which of the models; unknown names mean the only one")

#: What else every interface that makes text takes.
COMMON: Table = (
    MODEL,
    Parameter("stream", BOOLEAN, "Send the text as it comes, as server-sent events"),
    *SAMPLING,
    Parameter("ignore_eos", BOOLEAN, "Go on behind end tokens"),
    Parameter("cache_prompt", BOOLEAN, "Reuse what was computed of the same prompt's begin (on by default)"),
    Parameter("lookup", integer(0, 64), "How many tokens to guess at a time from what the text repeats"),
)

#: Parameters of other servers that change the text, and are not done here.
ELSEWHERE: Table = (
    *not_done(
        {
            "guided_json": "use response_format",
            "guided_regex": "use grammar or response_format",
            "guided_grammar": "use response_format",
            "guided_choice": "use response_format with an enum",
            "structured_outputs": "use response_format",
            "use_beam_search": "texts are sampled",
            "min_tokens": "a text ends where the model ends it",
            "bad_words": "use logit_bias",
            "stop_token_ids": "use stop",
            "logits_processors": "code is not taken from requests",
            "lora": "adapters are merged before serving",
            "dynatemp_range": "the temperature is constant",
            "adaptive_target": "use mirostat",
            "image_data": "only text is understood",
        },
        0,
        0.0,
        [],
        {},
    ),
)

#: Parameters that change nothing of the text.
HARMLESS: Table = ignored(
    *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("id_slot", "return_tokens", "verbosity_level", "priority", "prediction", "request_id"),
)

STOP = Parameter(
    "stop",
    either(STRING, {**STRINGS, "maxItems": 64}),
    "The text ends before any of these",
)


def unique(*tables: Iterable[Parameter]) -> Table:
    """Tables put together; of rows with the same name the first counts."""
    rows: dict[str, Parameter] = {}
    for table in tables:
        for row in table:
            rows.setdefault(row.name, row)
    return tuple(rows.values())
