"""Bodies of requests and answers: JSON, within a limit, as strict as it is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from gguflike import jsontext
from gguflike.serve.errors import ApiError, ClientLeft
from gguflike.serve.validation import shown

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


async def read(request: Request, limit: int) -> tuple[dict[str, Any], int]:
    """The object in a request's body, and the size of that in bytes. 415 where it is not declared as plain JSON, 413
    beyond ``limit`` bytes, else 400; ClientLeft where it does not come to its end.

    Only what is declared as JSON is read: a page of any origin can make a browser send a form or plain text without
    asking the server first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(415, f"content-type: expected {JSON}, got {kind or 'none'}", code="unsupported_media_type")
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        message = f"content-encoding: {packed[:40]} is not unpacked here; send the body as it is"
        raise ApiError(415, message, code="unsupported_media_type")
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > limit:
                raise too_large(limit)
    except ClientDisconnect:
        raise ClientLeft from None
    return decoded(bytes(data)), len(data)


def too_large(limit: int) -> ApiError:
    """413, behind which the connection is closed."""
    return ApiError(
        413,
        f"the body is larger than {limit} bytes; the server's --max-body sets another limit",
        code="request_too_large",
        headers={"connection": "close"},  # what is left of the body is not read
    )


def decoded(data: bytes) -> dict[str, Any]:
    """The object that JSON text holds, in whose texts "?" stands for half of a surrogate pair (what is left of a
    character that was cut in two, which no UTF-8 can hold). 400 for anything else."""
    try:
        text = data.decode("utf-8-sig")
        body = jsontext.parsed(text)
        if jsontext.HALF.search(text):
            body = jsontext.parsed(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace").decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too deep to be written again
        raise ApiError(400, f"the body is not JSON: {error}"[:300], code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object; got {shown(body)}", code="invalid_json")
    return body


def encoded(document: Any) -> bytes:
    """JSON text; a surrogate that no UTF-8 can hold becomes "?"."""
    return _ENCODER.encode(document).encode("utf-8", "replace")
