"""What families with recurrent layers share: which layers attend, where the tensors of their mixers come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import Decoder, rms
from gguflike.families.origins import Named, Origin
from gguflike.families.parts.recurrent import Mamba2
from gguflike.families.transforms import Chain, Flattened, NegExp, Squeezed
from gguflike.frozen import frozen, replace

# Limits of Mamba 2's time steps that change nothing, as JSON writes infinity.
TIME_STEP_LIMITS = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])
ATTENDS = ("attention", "full_attention")


@frozen
class Hybrid(Decoder):
    """A decoder of which some layers attend; the others have 0 key heads."""

    n_head_kv: tuple[int, ...] = key(  # type: ignore[assignment]  # one value for each layer
        "attention.head_count_kv", "num_key_value_heads", array=True
    )

    @property
    def key_heads(self) -> int:
        """Key heads of a layer that attends."""
        return max(self.n_head_kv)


def with_layer_heads(values: Mapping[str, Any], attends: Sequence[bool]) -> dict[str, Any]:
    """config.json with ``num_key_value_heads`` for each layer, 0 where it does not attend."""
    heads = values.get("num_key_value_heads") or values.get("num_attention_heads")
    return {**values, "num_key_value_heads": [heads if each else 0 for each in attends]}


def with_layer_types(values: Mapping[str, Any], attends: str, other: str) -> dict[str, Any]:
    """The opposite: one number of key heads, and ``layer_types`` of two names."""
    heads = values["num_key_value_heads"]
    types = [attends if each else other for each in heads]
    return {**values, "num_key_value_heads": max(heads), "layer_types": types}


def attending(values: Mapping[str, Any], key: str = "layer_types") -> list[bool]:
    """Which of the layers that config.json lists attend."""
    return [each in ATTENDS for each in values.get(key) or ()]


def mamba2_origins(mixer: str) -> dict[str, Origin]:
    """Where the tensors of Mamba2 come from, in a module called ``mixer``."""
    return {
        "ssm_in": Named(f"{mixer}.in_proj"),
        "ssm_conv1d": Named(f"{mixer}.conv1d"),
        "ssm_conv1d.weight": Named(f"{mixer}.conv1d", Squeezed()),
        "ssm_dt.bias": Named(f"{mixer}.dt_bias", bare=True),
        "ssm_a": Named(f"{mixer}.A_log", Chain(steps=(Flattened(), NegExp())), bare=True),
        "ssm_d": Named(f"{mixer}.D", Flattened(), bare=True),
        "ssm_norm": Named(f"{mixer}.norm", Flattened()),
        "ssm_out": Named(f"{mixer}.out_proj"),
    }


def mamba_origins(mixer: str) -> dict[str, Origin]:
    """Where the tensors of Mamba come from, in a module called ``mixer``."""
    return {
        "ssm_in": Named(f"{mixer}.in_proj"),
        "ssm_conv1d": Named(f"{mixer}.conv1d"),
        "ssm_conv1d.weight": Named(f"{mixer}.conv1d", Squeezed()),
        "ssm_x": Named(f"{mixer}.x_proj"),
        "ssm_dt": Named(f"{mixer}.dt_proj"),
        "ssm_dt_norm": Named(f"{mixer}.dt_layernorm"),
        "ssm_b_norm": Named(f"{mixer}.b_layernorm"),
        "ssm_c_norm": Named(f"{mixer}.c_layernorm"),
        "ssm_a": Named(f"{mixer}.A_log", NegExp(), bare=True),
        "ssm_d": Named(f"{mixer}.D", bare=True),
        "ssm_out": Named(f"{mixer}.out_proj"),
    }


def convolution_bias(name: str, first: Callable[[Any], int]) -> Any:
    """The field of whether the convolution of Mamba 2 has a bias. ``first`` is the first layer that has one."""
    return key(None, name, default=True, tensor=lambda c: f"blk.{first(c)}.ssm_conv1d.bias")


@frozen
class Mamba2Hybrid(Hybrid):
    """A decoder with Mamba 2, whose sizes config.json begins with ``mamba_``."""

    kernel: int = key("ssm.conv_kernel", "mamba_d_conv", default=4)
    d_state: int = key("ssm.state_size", "mamba_d_state", default=256)
    groups: int = key("ssm.group_count", "mamba_n_groups", default=1)
    heads: int = key("ssm.time_step_rank", "mamba_n_heads", default=128)
    conv_bias: bool = convolution_bias("mamba_conv_bias", lambda c: 0 if all(c.n_head_kv) else c.n_head_kv.index(0))
    inner: int = key(
        "ssm.inner_size",
        "mamba_expand",
        default=lambda c: 2 * c.n_embd,
        via=Via(read=lambda c, factor: int(c.n_embd * factor), write=lambda c: c.inner // c.n_embd),
    )


def mamba2(c: Mamba2Hybrid, **changes: Any) -> Mamba2:
    """Mamba 2 with the configuration's sizes; ``changes`` are its other settings."""
    norm = rms(c, "ssm_norm", c.inner // c.groups, groups=c.groups)
    return replace(Mamba2(c.n_embd, c.inner, c.d_state, c.groups, c.heads, c.kernel, norm, c.conv_bias), **changes)


# Settings of Mamba 2 that have no other value here, and those that change nothing.
MAMBA2_IMPLEMENTED = MappingProxyType({"mamba_proj_bias": (False,), "time_step_limit": TIME_STEP_LIMITS})
MAMBA2_INERT = frozenset({"mamba_chunk_size", "mamba_d_head", "num_logits_to_keep"})
