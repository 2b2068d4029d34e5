"""Qwen 3.5 and what shares its text model (3.6, 3.8), dense and with experts, and Qwen3-Next: three layers of the gated
delta rule for one of attention.

Value heads that share a key head stand side by side in a checkpoint. llama.cpp lets value head h go with key head
h % key_heads in Qwen 3.5, so that rows of value heads move; in Qwen3-Next they stay, but their matrices are grouped by
key head.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import NESTED_NAMES, Family
from gguflike.families.mixture import expert_names, experts, shared, shared_names
from gguflike.families.origins import Named, Origin, Run, Runs
from gguflike.families.parts import Block, Branch, Graph, Mixer, Tensor
from gguflike.families.parts.experts import Router
from gguflike.families.parts.recurrent import DeltaNet
from gguflike.families.transforms import Columns, NegExp, PlusOne, Squeezed
from gguflike.frozen import frozen, replace

_LINEAR, _FULL = "linear_attention", "full_attention"
UNIT_EPS = 1e-6  # of the root that queries and keys of the delta rule are divided by


def _by_interval(c: Any) -> tuple[bool, ...]:
    """Which layers are recurrent where nothing says so: all but the last of every ``interval``."""
    return tuple((layer + 1) % c.interval != 0 for layer in range(c.n_layer))


@frozen
class Qwen3Next(mtp.Headed, Decoder):
    """Hyper-parameters; ``recurrent`` are the layers of the delta rule."""

    n_rot: int = key(
        "rope.dimension_count",
        "rope.partial_rotary_factor",
        default=lambda c: c.head_dim // 4,
        via=Via(read=lambda c, share: int(c.head_dim * share), write=lambda c: c.n_rot / c.head_dim),
    )
    # Experts have sizes of their own.
    n_ff: int = key("feed_forward_length", "intermediate_size", default=0, zero=True, implied=True)
    interval: int = key("full_attention_interval", "full_attention_interval", default=4)
    recurrent: tuple[bool, ...] = key(
        "attention.recurrent_layers",
        "layer_types",
        default=_by_interval,
        array=True,
        via=Via(
            read=lambda _, types: [each == _LINEAR for each in types],
            write=lambda c: [_LINEAR if each else _FULL for each in c.recurrent],
        ),
    )
    kernel: int = key("ssm.conv_kernel", "linear_conv_kernel_dim", default=4)
    key_dim: int = key("ssm.state_size", "linear_key_head_dim", default=128)
    key_heads: int = key("ssm.group_count", "linear_num_key_heads", default=16)
    value_heads: int = key("ssm.time_step_rank", "linear_num_value_heads", default=32)
    inner: int = key(
        "ssm.inner_size",
        "linear_value_head_dim",
        default=lambda c: c.value_heads * c.key_dim,
        via=Via(read=lambda c, dim: c.value_heads * dim, write=lambda c: c.inner // c.value_heads),
    )
    n_expert: int = key("expert_count", "num_experts", default=0, zero=True, implied=True)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=0, zero=True, implied=True)
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size", default=0, zero=True, implied=True)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", "shared_expert_intermediate_size", default=0, zero=True, implied=True
    )
    n_mtp: int = mtp.count("mtp_num_hidden_layers", most=1)


@frozen
class Qwen35(Qwen3Next):
    """Hyper-parameters; the sections of positions in images are all that readers ask for beside them."""

    sections: tuple[int, ...] = key(
        "rope.dimension_sections",
        "rope.sections",
        default=(11, 11, 10, 0),
        listed=True,
        via=Via(read=lambda _, given: [*given, 0, 0, 0, 0][:4], write=lambda c: [each for each in c.sections if each]),
    )


def delta_net(c: Qwen3Next, tiled: bool) -> DeltaNet:
    """The mixer of recurrent layers. UnsupportedError where keys and values have heads of different size."""
    if c.inner != c.value_heads * c.key_dim:
        raise UnsupportedError(
            "value heads of the delta rule",
            field="linear_value_head_dim",
            expected=f"linear_key_head_dim, {c.key_dim}",
            got=c.inner // c.value_heads,
        )
    norm = rms(c, "ssm_norm", c.key_dim)
    return DeltaNet(c.n_embd, c.key_heads, c.value_heads, c.key_dim, c.kernel, norm, tiled=tiled, joint=not tiled)


def after(c: Qwen3Next) -> Mixer:
    """What follows the mixer: a feed-forward, or experts and one that all tokens share, gated."""
    if not c.n_expert:
        return feed_forward(c)
    return experts(c, Router(), shared=shared(c, c.n_ff_shared), shared_gate=c.n_ff_shared > 0)


def _graph(c: Qwen3Next, tiled: bool) -> Graph:
    norms = {f"{each}_norm": rms(c, f"attn_{each}_norm", c.head_dim) for each in ("q", "k")}
    full = attention(c, rope_of(c, "neox"), gate="query", **norms)
    linear, second = delta_net(c, tiled), after(c)

    def block(layer: int) -> Block:
        first: Mixer = linear if layer < c.n_layer and c.recurrent[layer] else full
        return (Branch(rms(c, "attn_norm"), first), Branch(rms(c, "post_attention_norm"), second))

    return mtp.with_mtp(c, decoder(c, block), block)


def qwen35(c: Qwen35) -> Graph:
    """Blocks of the delta rule or of gated attention, and a feed-forward or experts. Positions of text turn plainly."""
    return _graph(c, tiled=True)


def qwen3next(c: Qwen3Next) -> Graph:
    """The same, with value heads in the order of the checkpoint."""
    return _graph(c, tiled=False)


# Where value heads stand in a checkpoint


def _tiled(c: Qwen3Next) -> list[int]:
    """Number in the checkpoint of each value head of GGUF."""
    per_key = c.value_heads // c.key_heads
    return [h % c.key_heads * per_key + h // c.key_heads for h in range(c.value_heads)]


def _heads(c: Qwen3Next, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of value heads only."""
    rows = tensor.shape[0] // c.value_heads
    return [Run(head * rows, rows) for head in _tiled(c)], tensor.shape[0]


def _behind_keys(c: Qwen3Next, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of queries, keys and then value heads."""
    before = 2 * c.key_heads * c.key_dim
    values = [Run(before + head * c.key_dim, c.key_dim) for head in _tiled(c)]
    return [Run(0, before), *values], tensor.shape[0]


def _columns(c: Qwen3Next, tensor: Tensor) -> tuple[list[Run], int]:
    """Columns of value heads."""
    return [Run(0, tensor.shape[0], Columns(order=tuple(_tiled(c))))], tensor.shape[0]


def _grouped(c: Qwen3Next, parts: tuple[int, ...]) -> tuple[list[Run], int]:
    """Rows of ``in_proj_qkvz``: for each key head its query, its key, its values and their gates. ``parts`` are those
    wanted, each of all key heads."""
    per_key = c.value_heads // c.key_heads * c.key_dim
    sizes = (c.key_dim, c.key_dim, per_key, per_key)
    group = sum(sizes)
    runs = [Run(i * group + sum(sizes[:part]), sizes[part]) for part in parts for i in range(c.key_heads)]
    return runs, c.key_heads * group


def notices(c: Qwen3Next) -> list[str]:
    """What llama.cpp does not compute of the delta rule, whose queries and keys are of length 1."""
    if abs(c.norm_eps - UNIT_EPS) <= 1e-3 * UNIT_EPS:
        return []
    said = f"llama.cpp adds {c.norm_eps:g} where it brings queries and keys of the delta rule to length 1, as in norms"
    return [f"{said}, and this model {UNIT_EPS:g}"]


_SHARED: Mapping[str, Origin] = {
    **DECODER_NAMES,
    "attn_norm": Named("input_layernorm", PlusOne()),
    "post_attention_norm": Named("post_attention_layernorm", PlusOne()),
    "attn_q_norm": Named("self_attn.q_norm", PlusOne()),
    "attn_k_norm": Named("self_attn.k_norm", PlusOne()),
    "output_norm": Named("model.norm", PlusOne()),
    "ssm_norm": Named("linear_attn.norm"),
    **expert_names(),
    **shared_names("mlp.shared_expert"),
    "ffn_gate_inp_shexp": Named("mlp.shared_expert_gate"),
}

QWEN35 = Family(
    name="qwen35",
    config=Qwen35,
    graph=qwen35,
    mtp_origins=MappingProxyType(mtp.apart(PlusOne())),
    mtp_layers=mtp.MTP_LAYERS,
    renamed=(*NESTED_NAMES, (r"^model\.mtp\.", "mtp.")),
    origins=MappingProxyType(
        {
            **_SHARED,
            "attn_qkv": Runs("linear_attn.in_proj_qkv", _behind_keys),
            "attn_gate": Runs("linear_attn.in_proj_z", _heads),
            "ssm_alpha": Runs("linear_attn.in_proj_a", _heads),
            "ssm_beta": Runs("linear_attn.in_proj_b", _heads),
            "ssm_conv1d": Runs("linear_attn.conv1d", _behind_keys, Squeezed()),
            "ssm_dt": Runs("linear_attn.dt_bias", _heads, bare=True),
            "ssm_a": Runs("linear_attn.A_log", _heads, NegExp(), bare=True),
            "ssm_out": Runs("linear_attn.out_proj", _columns),
        }
    ),
    left_out=MappingProxyType(
        {r"(model\.)?mtp\.": "the head that predicts several tokens", r"(model\.)?visual\.": "the vision tower"}
    ),
    implemented=MappingProxyType(
        {
            **SILU,
            "attn_output_gate": (True,),
            "norm_topk_prob": (True,),
            "mlp_only_layers": ([],),
        }
    ),
    inert=INERT_KEYS
    | {
        "decoder_sparse_step",
        "mamba_ssm_dtype",
        "mtp_use_dedicated_embeddings",
        "output_gate_type",
        "output_router_logits",
        "router_aux_loss_coef",
    },
    constants=exported("Qwen3_5ForCausalLM", "qwen3_5_text"),
    notices=notices,
)

QWEN35MOE = replace(
    QWEN35,
    name="qwen35moe",
    constants=exported("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text"),
)

QWEN3NEXT = replace(
    QWEN35,
    name="qwen3next",
    config=Qwen3Next,
    graph=qwen3next,
    origins=MappingProxyType(
        {
            **_SHARED,
            "attn_qkv": Runs("linear_attn.in_proj_qkvz", lambda c, _: _grouped(c, (0, 1, 2))),
            "attn_gate": Runs("linear_attn.in_proj_qkvz", lambda c, _: _grouped(c, (3,))),
            "ssm_ba": Named("linear_attn.in_proj_ba"),
            "ssm_conv1d": Named("linear_attn.conv1d", Squeezed()),
            "ssm_dt": Named("linear_attn.dt_bias", bare=True),
            "ssm_a": Named("linear_attn.A_log", NegExp(), bare=True),
            "ssm_out": Named("linear_attn.out_proj"),
        }
    ),
    constants=exported("Qwen3NextForCausalLM", "qwen3_next"),
)
