"""An HTTP server for models: OpenAI's and Anthropic's interfaces, and a page to talk to them.

From the socket down to the engine:

    server        the application as a process: address, signals, exit
    settings      what it is started with
    app           routes, the parts of an application put together
    guard         what is refused before a body is read: hosts, keys, origins, sizes; failures become answers
    errors        what goes wrong, as either interface says it
    endpoints     the table of endpoints
    openapi       the OpenAPI document, made of that table
    parameters    tables of what requests may say
    validation    the core of JSON Schema, by which they are checked
    bodies        JSON in and out
    context       what endpoints work with: settings, models, a request's parameters

    openai/       chat, completions, responses, embeddings, models
    anthropic     messages and their tokens
    completion    texts continued, as llama-server has it
    native        tokens, templates, health, slots, properties
    metrics       counters in Prometheus's format
    page/         the page

    conversation  messages of either interface to prompts
    constraints   what an answer has to be, as a grammar
    answering     requests to the engine and its events back, for several choices at once
    speaking      a conversation's answer as it comes
    replies       an answer put together, for who takes it whole
    logprobs      how likely tokens were
    sse           streams of events that are kept alive, and work that ends when its client leaves
    bell          waking the loop from the engine's thread
    line          work beside the loop, one after the other

    models        models that are loaded when asked for and unloaded when memory is short
    reserve       how much memory one takes at most, before it is loaded

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
