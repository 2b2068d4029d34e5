"""What goes wrong, with the status that clients act on and the body that each of the two interfaces has for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gguflike.errors import ArgumentError, ArgumentTypeError, GGUFLikeError, TemplateError, UnsupportedError

#: Status -> type of the error, as OpenAI's and as Anthropic's clients know it.
TYPES: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    500: ("server_error", "api_error"),
    501: ("not_supported_error", "invalid_request_error"),
    503: ("unavailable_error", "overloaded_error"),
}


class ApiError(Exception):
    """An answer other than 200.

    ``code`` is a word for programs, ``param`` the parameter that is wrong, ``more`` further members of the error's
    object, ``retry_after`` seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        more: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.more = dict(more or {})
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    def openai(self) -> dict[str, Any]:
        """The body for OpenAI's clients, and what stands in a stream that fails."""
        kind = TYPES.get(self.status, TYPES[500])[0]
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code or self.status}
        return {"error": {**error, **self.more}}

    def anthropic(self) -> dict[str, Any]:
        """The body for Anthropic's clients."""
        kind = TYPES.get(self.status, TYPES[500])[1]
        return {"type": "error", "error": {"type": kind, "message": self.message, **self.more}}

    def body(self, path: str) -> dict[str, Any]:
        """The body for whoever asked for ``path``."""
        return self.anthropic() if path.startswith("/v1/messages") else self.openai()


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def refused(param: str, message: str, *, code: str | None = None) -> ApiError:
    """400: a parameter is wrong, or asks for what is not done."""
    return ApiError(400, f"{param}: {message}", code=code, param=param)


def too_long(prompt: int, context: int, param: str = "messages") -> ApiError:
    """400: the prompt does not fit. Clients read the code, either of the phrases, or the two numbers."""
    return ApiError(
        400,
        f"prompt is too long: {prompt} tokens > {context - 1} maximum. This model's maximum context length is "
        f"{context} tokens (the context window, which the answer needs room in too), your prompt has {prompt}. "
        "Shorten the prompt, or start the server with a larger --context.",
        code="context_length_exceeded",
        param=param,
        more={"n_prompt_tokens": prompt, "n_ctx": context},
    )


def text_too_long(tokens: int, context: int, param: str, cut: bool) -> ApiError:
    """400: a text of which a vector or a score is wanted does not fit, also if as much as may be is ``cut``. Clients
    read what they do of `too_long`."""
    remedy = "Shorten the text." if cut else 'Shorten the text, or have it cut by "truncate": true.'
    return ApiError(
        400,
        f"{param}: the text is too long: {tokens} tokens > {context} maximum. This model's maximum context length is "
        f"{context} tokens. {remedy}",
        code="context_length_exceeded",
        param=param,
        more={"n_prompt_tokens": tokens, "n_ctx": context},
    )


def overloaded(message: str, seconds: int) -> ApiError:
    """503: not now, but in so many seconds."""
    return ApiError(503, message, code="overloaded", retry_after=seconds)


def of(error: BaseException, param: str | None = None) -> ApiError:
    """The answer for any exception. What is no fault of the request says nothing about the server's insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ArgumentError | ArgumentTypeError | UnsupportedError | TemplateError):
        return ApiError(400, told(error), param=error.field.replace(": ", ".") if error.field else param)
    if isinstance(error, GGUFLikeError):
        return ApiError(500, told(error), code="model_error")
    if isinstance(error, MemoryError):
        return overloaded("out of memory", 30)
    return ApiError(500, f"internal error: {type(error).__name__}; the server's log says more", code="internal_error")


def told(error: GGUFLikeError) -> str:
    """The message without the folders of this machine."""
    text = str(error)
    return text.replace(error.path, os.path.basename(error.path)) if error.path else text  # noqa: PTH119 - text
