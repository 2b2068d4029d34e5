"""Conversations: messages to the ids of a prompt, and what a model says back to parts.

    chat = Chat(model.tokenizer)
    prompt = chat.prompt([{"role": "user", "content": "Hi"}], tools=None)   .ids, .text

    reader = prompt.reader()
    for piece in model.generate(prompt.ids, shown=prompt.shown):
        for part in reader.push(piece.text): ...                                     Said or Called
    reader.end()

    messages        what a message may be, brought into one shape; errors name what is wrong
    shape           what a template takes (system messages, tools, calls), found out by trying
    prompt          a conversation by the template of a file to token ids, in which markup of users stays text
    template        the template's program, which runs in a child process with limits
    template_child  that process
    memory          what it has used, on each system in its own way
    ready           such processes without their start, for who renders often
    formats         how models write reasoning and calls: a table, from which a template's text chooses
    reading         the text of an answer, as it comes, to parts
    harmony         the same where it is written in channels (gpt-oss)
    calls           the syntaxes of calls
    choice          what an answer is bound to: calls that must be made, JSON of a schema

Messages are those of OpenAI's API. Nothing here knows models or servers; a tokenizer is all that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.chat.calls import Called
    from gguflike.chat.choice import bound
    from gguflike.chat.formats import Format
    from gguflike.chat.harmony import ChannelReader
    from gguflike.chat.prompt import Chat, Prompt
    from gguflike.chat.reading import Reader, Said

__all__ = ["Called", "ChannelReader", "Chat", "Format", "Prompt", "Reader", "Said", "bound"]

__getattr__ = lazy.names(
    __name__,
    {
        "Called": "calls",
        "ChannelReader": "harmony",
        "Chat": "prompt",
        "Format": "formats",
        "Prompt": "prompt",
        "Reader": "reading",
        "Said": "reading",
        "bound": "choice",
    },
)
