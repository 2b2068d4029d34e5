"""EXAONE 4 and 4.5."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families import mtp
from gguflike.families.config import key
from gguflike.families.decoder import (
    INERT_KEYS,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    qk_norms,
    recover_llama3,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.olmo import POST_NORM_NAMES, post_norm
from gguflike.families.parts import Block, Graph
from gguflike.families.windows import Windowed, every, idle_notices, span, windowed, without_window
from gguflike.frozen import frozen


@frozen
class Exaone4(mtp.Headed, Windowed):
    """Hyper-parameters. Where there are windows, only layers that have one turn queries and keys. The block of a head
    is as that of the first layer."""

    windowed: tuple[bool, ...] = windowed(every(4), implied=without_window)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    n_mtp: int = mtp.count(most=1)


def exaone4(c: Exaone4) -> Graph:
    """Norms behind the mixers, and of queries and keys per head."""
    rope, norms = rope_of(c, "neox"), qk_norms(c)

    def block(layer: int) -> Block:
        turns = not c.window or c.windowed[layer]
        return post_norm(c, attention(c, rope if turns else None, **norms, window=span(c, layer)), feed_forward(c))

    return mtp.with_mtp(c, decoder(c, block), lambda _: block(0))


def notices(c: Exaone4) -> list[str]:
    """What llama.cpp does not compute of files of this architecture, whose windows it knows by their 64 layers."""
    other = c.window and (c.n_layer != 64 or c.windowed != every(4)(c))
    said = "llama.cpp knows windows in this architecture only of models of 64 layers, in all but every 4th"
    return [*(idle_notices(c) if c.n_layer == 64 else []), *([said] if other else [])]


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with one of the two spellings of its windows."""
    if values.get("layer_types") is None:
        return values
    return {name: value for name, value in values.items() if name != "sliding_window_pattern"}


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, in which no window is null: Exaone4Config assumes one."""
    return {"sliding_window": None, **values}


EXAONE4 = Family(
    name="exaone4",
    config=Exaone4,
    graph=exaone4,
    origins=POST_NORM_NAMES,
    mtp_origins=MappingProxyType(mtp.apart()),
    mtp_layers=mtp.MTP_LAYERS,
    left_out=MappingProxyType({r"(model\.)?visual\.": "the vision tower", r"mtp\.": "what predicts further tokens"}),
    implemented=SILU,
    inert=INERT_KEYS | {"mtp_share_layers"},  # which says whether several heads have one block
    constants=exported("Exaone4ForCausalLM", "exaone4"),
    normalized=normalized,
    spelled=spelled,
    notices=notices,
    recover=recover_llama3,
)
