"""Our OpenAPI document, made of the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from gguflike import __version__
from gguflike.serve.endpoints import ENDPOINTS, Endpoint
from gguflike.serve.metrics import CONTENT_TYPE
from gguflike.serve.parameters import schema

#: Statuses that any endpoint may answer with, and those that only one with a body does.
ALWAYS = {
    "401": "No key, or a wrong one",
    "403": "The Host header is not this machine's",
    "404": "There is no such thing",
    "405": "Another method",
    "503": "Not now; Retry-After says when",
}
WITH_BODY = {
    "400": "A parameter is wrong; param names it",
    "413": "The body is too large",
    "415": "The body is not declared as JSON",
    "500": "The model cannot be computed",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
        }
    },
}


@cache
def document() -> dict[str, Any]:
    """The document, as JSON values."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            paths.setdefault(re.sub(r":\w+}", "}", path), {})[endpoint.method.lower()] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gguflike", "version": __version__, "description": "Models in GGUF files, served."},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": ["object", "array"]}}}
    if path == "/metrics":
        content = {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}{re.sub(r'[^a-z]+', '_', path)}".rstrip("_"),
        "summary": endpoint.about,
        "responses": {"200": {"description": "Done", "content": content}, **_failures(ALWAYS.items())},
    }
    if endpoint.free:
        operation["security"] = []
    names = re.findall(r"{(\w+)", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if endpoint.table is not None:
        operation["requestBody"] = {
            "required": not endpoint.bare,
            "content": {"application/json": {"schema": schema(endpoint.table)}},
        }
        operation["responses"].update(_failures(WITH_BODY.items()))
    if endpoint.bare:
        operation["responses"].update(_failures([("501", "The server was not started for it")]))
        operation["parameters"].append(
            {"name": "action", "in": "query", "required": True, "schema": {"enum": ["save", "restore", "erase"]}}
        )
    return operation


def _failures(statuses: Iterable[tuple[str, str]]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": about, "content": content} for status, about in statuses}
