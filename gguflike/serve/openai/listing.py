"""/v1/models"""

from __future__ import annotations

from typing import Any

from gguflike.serve.context import Call
from gguflike.serve.errors import ApiError
from gguflike.serve.models import Models


def _card(models: Models, name: str) -> dict[str, Any]:
    """A model with what agents size their prompts by, as far as it is loaded."""
    loaded = next((each for each in models.loaded if each.name == name), None)
    card: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": loaded.created if loaded is not None else 0,
        "owned_by": "gguflike",
        "status": {"value": "unloaded" if loaded is None else "loaded"},
    }
    if loaded is not None:
        context = loaded.model.context
        card |= {"context_length": context, "max_model_len": context, "meta": loaded.about}
    return card


async def models(call: Call) -> dict[str, Any]:
    known = call.server.models
    return {"object": "list", "data": [_card(known, name) for name in sorted(known.find())]}


async def model(call: Call) -> dict[str, Any]:
    """The card of one model. Unlike in requests for text, an unknown name is 404: who asks wants to know."""
    name, known = call.request.path_params["model"], call.server.models
    if name not in known.find():
        raise ApiError(404, f"no model {name[:100]!r}", code="model_not_found", param="model")
    return _card(known, name)
