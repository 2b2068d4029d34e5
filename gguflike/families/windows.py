"""Which layers have a sliding window, and which turn queries and keys: what models say in lists or as a period.

config.json has ``layer_types`` (a name for each layer), or ``sliding_window_pattern`` (every n-th layer sees
everything). GGUF has ``attention.sliding_window_pattern``, an array of booleans or that period; where it is absent the
architecture implies a pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import Decoder
from gguflike.frozen import frozen

_WINDOW = Via(read=lambda _, value: value, write=lambda c: c.window or None)
_NAMES = {"sliding_attention": True, "full_attention": False}
Flags = tuple[bool, ...]


def window(**changes: Any) -> Any:
    """The field of the window: so many tokens, one's own included; 0: layers see everything."""
    settings = {"default": 0, "zero": True, "implied": True, "via": _WINDOW, **changes}
    return key("attention.sliding_window", "sliding_window", **settings)


def windowed(
    default: Callable[[Any], Flags],
    config: tuple[str, ...] = ("layer_types", "sliding_window_pattern"),
    implied: bool | Callable[[Any], bool] = True,
) -> Any:
    """The field of which layers have the window; ``n_layer`` and ``window`` are above it, ``default`` is what the
    architecture implies (``implied``: files need not say it)."""
    return key(
        "attention.sliding_window_pattern",
        config,
        default=lambda c: default(c) if c.window else (False,) * c.n_layer,
        array=True,
        implied=implied,
        via=Via(read=_flags, parse=_flags, write=_layer_types(config[0])),
    )


def rotated(default: Callable[[Any], Flags]) -> Any:
    """The field of which layers turn queries and keys; ``n_layer`` is above it, ``default`` is what the architecture
    implies."""
    via = Via(read=_ones, parse=_ones, write=lambda c: [int(each) for each in c.rotated])
    return key("attention.rope_pattern", "no_rope_layers", default=default, array=True, implied=True, via=via)


def _ones(_: Any, value: Any) -> list[bool]:
    """Which layers a list of ones and zeros means."""
    if not isinstance(value, list) or not all(each in (0, 1) for each in value):
        raise ValueError("a list of 0 and 1")
    return [bool(each) for each in value]


def without_window(c: Any) -> bool:
    """Whether there is no window, so that files need not say which layers have it."""
    return not c.window


def every(period: int) -> Callable[[Any], Flags]:
    """All layers but every ``period``-th, which is the last of so many; 1: none."""
    return lambda c: tuple(layer % period < period - 1 for layer in range(c.n_layer))


def turned_notices(c: Any, turned: Flags) -> list[str]:
    """Of an architecture in which llama.cpp turns queries and keys by its own count of layers: that it does otherwise
    where those that are ``turned`` are others."""
    said = "llama.cpp turns queries and keys of all layers but every fourth, and this model of others"
    return [] if turned == every(4)(c) else [said]


def windowed_notices(c: Any) -> list[str]:
    """Of an architecture in which llama.cpp has windows by its own count of layers: the same of those."""
    said = "llama.cpp takes every 4th layer for the one without a window, which this model does not"
    return [] if c.windowed == every(4)(c) else [said]


def idle_notices(c: Any) -> list[str]:
    """That llama.cpp refuses a window that no layer has."""
    idle = c.window and not any(c.windowed)
    return ["llama.cpp refuses the file: it has a window (sliding_window), which no layer has"] if idle else []


def all_layers(c: Any) -> Flags:
    """Every layer."""
    flags: Flags = (True,) * c.n_layer
    return flags


def _flags(c: Any, value: Any) -> list[bool]:
    """Which layers a list of names or booleans, a text of L and G, or a period, means: none without a window."""
    if isinstance(value, int) and not isinstance(value, bool):
        flags = list(every(value)(c)) if value > 0 else [False] * c.n_layer
    elif isinstance(value, str) and value and set(value) <= {"L", "G"}:  # EXAONE 4's LLLG
        flags = [value[layer % len(value)] == "L" for layer in range(c.n_layer)]
    else:
        given = value if isinstance(value, list) else []
        found = [_NAMES.get(each) if isinstance(each, str) else each for each in given]
        flags = [each for each in found if isinstance(each, bool)]
        if not found or len(flags) != len(found):
            raise ValueError(f"a list of {' or '.join(_NAMES)}, or a period")
    return flags if c.window else [False] * len(flags)


def _layer_types(name: str) -> Callable[[Any], Any]:
    """What an export writes: names of layers, where the key is of names, otherwise the period."""
    kinds = {windowed: kind for kind, windowed in _NAMES.items()}
    return lambda c: [kinds[each] for each in c.windowed] if name == "layer_types" else None


@frozen
class Windowed(Decoder):
    """A decoder of which all layers have a window, unless ``layer_types`` says otherwise."""

    window: int = window()
    windowed: tuple[bool, ...] = windowed(all_layers)


def unsaid_is_full(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of models whose layers see everything where it does not say what they see."""
    unsaid = values.get("layer_types") is None
    return {**values, "layer_types": ["full_attention"] * (values.get("num_hidden_layers") or 0)} if unsaid else values


def span(c: Any, layer: int) -> int:
    """The window of a layer, as `parts.Attention` has it; 0: none."""
    size: int = c.window if c.windowed[layer] else 0
    return size


def partial() -> Any:
    """The field of how many dimensions of a head turn, for models that turn a share of it; ``head_dim`` is above it."""
    return key("rope.dimension_count", "rope.partial_rotary_factor", default=lambda c: c.head_dim, via=_SHARE)


def _share(c: Any) -> float:
    """The share whose product with the head's size gives the dimensions again, whatever it was rounded from."""
    share: float = c.n_rot / c.head_dim
    return share if int(share * c.head_dim) == c.n_rot else (c.n_rot + 0.5) / c.head_dim


_SHARE = Via(read=lambda c, share: int(share * c.head_dim), write=_share)
