"""An HTTP server for models: OpenAI's and Anthropic's interfaces, and a page to talk to them.

From the socket down to the engine:

    server         the application as a process: address, signals, exit
    app            routes, the parts of an application put together
    endpoints      the table of endpoints, of which routes and the OpenAPI document are made; openapi
    guard          what is refused before a body is read: hosts, keys, origins, sizes; failures become answers
    bodies         JSON in and out; parameters (tables of what requests may say), validation (JSON Schema's core)
    sse            streams of events that are kept alive, and work that ends when its client leaves
    openai/        chat, completions, responses, embeddings, models
    anthropic      messages and their tokens
    completion     texts continued, as llama-server has it
    native         tokens, templates, health, slots, properties, metrics (prometheus)
    conversation   messages of either interface to prompts; schemas to grammars
    answering      requests to the engine and its events back, for several choices at once
    models         models that are loaded when asked for and unloaded when memory is short
    settings       what a server is started with
    errors         what goes wrong, as either interface says it
    page/          the page

Nothing here is imported by what runs a model: starlette, uvicorn and asyncio are loaded to serve only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.serve.server import Server
    from gguflike.serve.settings import Settings

__all__ = ["Server", "Settings"]

__getattr__ = lazy.names(__name__, {"Server": "server", "Settings": "settings"})
