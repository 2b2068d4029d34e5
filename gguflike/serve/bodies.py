"""Bodies of requests and answers: JSON, within a limit, as strict as it is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from gguflike.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


async def read(request: Request, limit: int) -> dict[str, Any]:
    """The object in a request's body. 415 where it is not declared as JSON, 413 beyond ``limit`` bytes, else 400.

    Only what is declared as JSON is read: a page of any origin can make a browser send a form or plain text without
    asking the server first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(415, f"content-type: expected {JSON}, got {kind or 'none'}", code="unsupported_media_type")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise too_large(limit)
    return decoded(bytes(data))


def too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit} bytes; the server's --max-body sets another limit",
        code="request_too_large",
        headers={"connection": "close"},  # what is left of the body is not read
    )


def decoded(data: bytes) -> dict[str, Any]:
    """The object that JSON text holds. 400 for anything else."""
    try:
        body = json.loads(data, parse_constant=_not_json)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise ApiError(400, f"the body is not JSON: {error}"[:300], code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object, not {type(body).__name__}", code="invalid_json")
    return body


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def encoded(document: Any) -> bytes:
    """JSON text; a surrogate that no UTF-8 can hold becomes "?"."""
    return _ENCODER.encode(document).encode("utf-8", "replace")
