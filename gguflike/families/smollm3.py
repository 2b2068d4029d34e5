"""SmolLM 3."""

from __future__ import annotations

from typing import Any

from gguflike.families.decoder import (
    INERT_KEYS,
    PERMUTED_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.parts import Graph
from gguflike.families.qwen import normalized as with_windows
from gguflike.families.qwen import notices as window_notices
from gguflike.families.qwen import spelled
from gguflike.families.windows import Windowed, every, rotated, span, turned_notices
from gguflike.frozen import frozen


@frozen
class SmolLM3(Windowed):
    """Hyper-parameters; ``rotated`` are the layers that turn queries and keys, all but every fourth as a rule."""

    rotated: tuple[bool, ...] = rotated(every(4))


def smollm3(c: SmolLM3) -> Graph:
    """Llama's graph, without a rotation in some layers."""
    rope = rope_of(c, "norm")
    return decoder(
        c,
        lambda layer: pre_norm(
            c, attention(c, rope if c.rotated[layer] else None, window=span(c, layer)), feed_forward(c)
        ),
    )


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the lists of layers that an interval and a switch stand for: layers that do not rotate have the
    window, once it is on."""
    made = dict(values)
    interval, layers = made.pop("no_rope_layer_interval", 4), made.get("num_hidden_layers")
    if made.get("no_rope_layers") is None and isinstance(layers, int):
        made["no_rope_layers"] = [int((i + 1) % interval != 0) for i in range(layers)]
    if made.get("use_sliding_window") and made.get("layer_types") is None:
        turns = made.get("no_rope_layers") or ()
        made["layer_types"] = ["full_attention" if each else "sliding_attention" for each in turns]
    return with_windows(made)


def notices(c: SmolLM3) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    return [*window_notices(c), *turned_notices(c, c.rotated)]


SMOLLM3 = Family(
    name="smollm3",
    config=SmolLM3,
    graph=smollm3,
    origins=PERMUTED_NAMES,
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("SmolLM3ForCausalLM", "smollm3"),
    normalized=normalized,
    spelled=spelled,
    notices=notices,
)
