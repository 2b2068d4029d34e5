"""What /v1/responses answers: a document, or the events by which it comes about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from gguflike.chat.calls import Called
from gguflike.chat.reading import Said
from gguflike.serve import logprobs, sse
from gguflike.serve.context import new_id, now
from gguflike.serve.errors import ApiError
from gguflike.serve.speaking import Answer, Ended, Spoken

#: What of the request comes back with the answer, and what it is where the request says nothing.
ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
}


async def whole(making: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The answer when it is complete."""
    made: Answer = await making
    events = Events(made, values)
    try:
        async for _ in events.all():
            pass
    finally:
        made.close()
    return events.document


class Events:
    """One response: ``document`` is what it is so far, `all` the events that tell of every change."""

    def __init__(self, made: Answer, values: Mapping[str, Any]) -> None:
        echoed = {name: values.get(name, default) for name, default in ECHOED.items()}
        echoed["max_output_tokens"] = values.get("max_tokens")
        self.document: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": now(),
            "model": made.loaded.name,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **echoed,
        }
        self._made, self._number = made, 0
        self._open: dict[str, Any] | None = None  # the item that is being said
        self._likely: list[dict[str, Any]] = []

    async def all(self) -> AsyncIterator[bytes]:
        yield self._event("response.created", response=self.document)
        yield self._event("response.in_progress", response=self.document)
        tokenizer = self._made.loaded.model.tokenizer
        async for pieces in self._made.spoken():
            events: list[bytes] = []
            for _, piece in pieces:
                if isinstance(piece, Spoken):
                    told = logprobs.chat(tokenizer, piece.tokens) if _likely(piece) else []
                    for said in piece.said:
                        events += self._call(said) if isinstance(said, Called) else self._say(said, told)
                        told = []
                elif isinstance(piece, Ended):
                    events += self._end(piece)
            if events:
                yield b"".join(events)

    def failed(self, error: ApiError) -> bytes:
        """The event in place of the end."""
        body = error.openai()["error"]
        self.document |= {"status": "failed", "error": {"code": str(body["code"]), "message": body["message"]}}
        failed = self._event("response.failed", response=self.document)
        return failed + self._event("error", code=str(body["code"]), message=body["message"], param=body["param"])

    def _event(self, kind: str, **members: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse.event(kind, {"type": kind, "sequence_number": number, **members})

    @property
    def _place(self) -> dict[str, Any]:
        output = self.document["output"]
        return {"item_id": output[-1]["id"], "output_index": len(output) - 1}

    def _say(self, said: Said, told: list[dict[str, Any]]) -> list[bytes]:
        kind = "reasoning" if said.reasoning else "message"
        events = []
        if self._open is None or self._open["type"] != kind:
            events += self._close()
            events += self._begin(kind)
        assert self._open is not None
        self._open["content"][0]["text"] += said.text
        members: dict[str, Any] = {"content_index": 0, "delta": said.text}
        if kind == "message":
            self._likely += told
            members["logprobs"] = told
        name = "response.reasoning_text.delta" if said.reasoning else "response.output_text.delta"
        return [*events, self._event(name, **self._place, **members)]

    def _begin(self, kind: str) -> list[bytes]:
        """Begin an item, with one part of text."""
        if kind == "reasoning":
            item: dict[str, Any] = {"id": new_id("rs_"), "type": kind, "status": "in_progress", "summary": []}
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": new_id("msg_"), "type": kind, "status": "in_progress", "role": "assistant"}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._open = {**item, "content": []}
        self.document["output"].append(self._open)
        added = self._event("response.output_item.added", output_index=self._place["output_index"], item=self._open)
        self._open["content"].append(part)
        return [added, self._event("response.content_part.added", **self._place, content_index=0, part=part)]

    def _close(self, status: str = "completed") -> list[bytes]:
        """End the item that is open, if one is."""
        if self._open is None:
            return []
        item, self._open = self._open, None
        part = item["content"][0]
        item["status"] = status
        members: dict[str, Any] = {"content_index": 0, "text": part["text"]}
        name = "response.reasoning_text.done"
        if item["type"] == "message":
            name = "response.output_text.done"
            part["logprobs"] = members["logprobs"] = self._likely
            self._likely = []
        return [
            self._event(name, **self._place, **members),
            self._event("response.content_part.done", **self._place, content_index=0, part=part),
            self._event("response.output_item.done", output_index=self._place["output_index"], item=item),
        ]

    def _call(self, said: Called) -> list[bytes]:
        events = self._close()
        item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": said.id,
            "name": said.name,
            "arguments": "",
        }
        self.document["output"].append(item)
        index = self._place["output_index"]
        events.append(self._event("response.output_item.added", output_index=index, item=item))
        delta = self._event("response.function_call_arguments.delta", **self._place, delta=said.arguments)
        item |= {"arguments": said.arguments, "status": "completed"}
        done = self._event(
            "response.function_call_arguments.done", **self._place, name=said.name, arguments=said.arguments
        )
        return [*events, delta, done, self._event("response.output_item.done", output_index=index, item=item)]

    def _end(self, ended: Ended) -> list[bytes]:
        cut = ended.reason == "length"
        events = []
        if not self.document["output"]:
            events += self._begin("message")  # every answer has a message, were it an empty one
        events += self._close("incomplete" if cut else "completed")
        generation, prompt = ended.generation, len(self._made.plan.prompt.ids)
        self.document |= {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": generation.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": len(generation.tokens),
                "output_tokens_details": {"reasoning_tokens": ended.reasoning},
                "total_tokens": prompt + len(generation.tokens),
            },
        }
        name = "response.incomplete" if cut else "response.completed"
        return [*events, self._event(name, response=self.document)]


def _likely(piece: Spoken) -> bool:
    return any(token.logprob is not None for token in piece.tokens)
