"""Conversations: messages to the ids of a prompt, and what a model says back to parts.

    chat = Chat(model.tokenizer)
    prompt = chat.prompt([{"role": "user", "content": "Hi"}], tools=None)   .ids, .text

    messages       what a message may be, brought into one shape; errors name what is wrong
    shape          what a template takes (system messages, tools, calls), found out by trying
    prompt         a conversation through the template of a file to token ids, in which markup of users stays text
    template       the template's program in a child process (template_child) with limits; memory

Messages are those of OpenAI's API. Nothing here knows models or servers; a tokenizer is all that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.chat.prompt import Chat, Prompt

__all__ = ["Chat", "Prompt"]

__getattr__ = lazy.names(__name__, {"Chat": "prompt", "Prompt": "prompt"})
