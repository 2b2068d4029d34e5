"""Mamba, Falcon Mamba and Mamba 2: state-space models without attention."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.family import Family
from gguflike.families.hybrid import TIME_STEP_LIMITS, mamba2_origins, mamba_origins
from gguflike.families.inert import PRETRAINED_KEYS
from gguflike.families.origins import Named
from gguflike.families.parts import Branch, Embedding, Graph, Head, Mixer, Norm
from gguflike.families.parts.recurrent import Mamba, Mamba2
from gguflike.frozen import frozen, replace

_CONTEXT = 2**20  # nothing in these models ends; llama.cpp's converter says so, too


@frozen
class StateSpace:
    """Hyper-parameters of both. Sizes are numbers of values, ``n_ctx`` and ``kernel`` are in tokens."""

    n_layer: int = key("block_count", "num_hidden_layers")
    n_ctx: int = key("context_length", None, default=_CONTEXT)
    n_embd: int = key("embedding_length", "hidden_size")
    n_ff: int = key("feed_forward_length", None, default=0, zero=True)
    n_head: int = key("attention.head_count", None, default=0, zero=True)
    n_vocab: int = key(None, "vocab_size")
    kernel: int = key("ssm.conv_kernel", "conv_kernel", default=4)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", default=1e-5)
    conv_bias: bool = key(None, "use_conv_bias", default=True, tensor="blk.0.ssm_conv1d.bias")
    untied: bool = key(None, "tie_word_embeddings", default=True, tensor="output.weight", negated=True)


@frozen
class MambaConfig(StateSpace):
    """Hyper-parameters of Mamba. ``normed``: time steps, B and C are normalized."""

    inner: int = key("ssm.inner_size", "intermediate_size", default=lambda c: 2 * c.n_embd)
    d_state: int = key("ssm.state_size", "state_size", default=16)
    dt_rank: int = key("ssm.time_step_rank", "time_step_rank", default=lambda c: -(-c.n_embd // 16))
    normed: bool = key("ssm.dt_b_c_rms", "dt_b_c_rms", default=False)
    # GGUF has one epsilon for all norms.
    mixer_eps: float = key(
        "gguflike.ssm.dt_b_c_rms_epsilon", "mixer_rms_eps", default=lambda c: c.norm_eps, implied=True
    )


@frozen
class Mamba2Config(StateSpace):
    """Hyper-parameters of Mamba 2."""

    inner: int = key("ssm.inner_size", "intermediate_size", default=lambda c: 2 * c.n_embd)
    d_state: int = key("ssm.state_size", "state_size", default=128)
    heads: int = key("ssm.time_step_rank", "num_heads", default=lambda c: c.inner // 64)
    groups: int = key("ssm.group_count", "n_groups", default=8)


def _graph(c: StateSpace, mixer: Mixer) -> Graph:
    block = (Branch(Norm("attn_norm", c.n_embd, c.norm_eps), mixer),)
    norm, head = Norm("output_norm", c.n_embd, c.norm_eps), Head(c.n_vocab, c.n_embd, tied=not c.untied)
    return Graph(Embedding(c.n_vocab, c.n_embd), (block,) * c.n_layer, norm, head)


def mamba(c: MambaConfig) -> Graph:
    """Blocks of one branch; Falcon Mamba's norms have no weights."""
    part = Mamba(c.n_embd, c.inner, c.d_state, c.dt_rank, c.kernel, conv_bias=c.conv_bias)
    if c.normed:
        dt, b, c_norm = (
            Norm(role, size, c.mixer_eps, weight=False)
            for role, size in (("ssm_dt_norm", c.dt_rank), ("ssm_b_norm", c.d_state), ("ssm_c_norm", c.d_state))
        )
        part = replace(part, dt_norm=dt, b_norm=b, c_norm=c_norm)
    return _graph(c, part)


def mamba2(c: Mamba2Config) -> Graph:
    """Blocks of one branch."""
    norm = Norm("ssm_norm", c.inner // c.groups, c.norm_eps, groups=c.groups)
    return _graph(c, Mamba2(c.n_embd, c.inner, c.d_state, c.groups, c.heads, c.kernel, norm, conv_bias=c.conv_bias))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with what follows from other keys."""
    made = {key: value for key, value in values.items() if (key, value) != ("time_step_rank", "auto")}
    made["dt_b_c_rms"] = made.get("model_type") == "falcon_mamba"
    if made["dt_b_c_rms"]:
        made.setdefault("mixer_rms_eps", 1e-6)
    if made.get("intermediate_size") is None and isinstance(made.get("hidden_size"), int):
        made["intermediate_size"] = made.get("expand", 2) * made["hidden_size"]
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of the class that the norms tell."""
    normed, made = values["dt_b_c_rms"], {key: value for key, value in values.items() if key != "dt_b_c_rms"}
    if normed:
        made |= {"architectures": ["FalconMambaForCausalLM"], "model_type": "falcon_mamba"}
    return {**made, "expand": values["intermediate_size"] // values["hidden_size"]}


_NAMES = MappingProxyType(
    {
        "token_embd": Named("backbone.embeddings"),
        "attn_norm": Named("norm"),
        "output_norm": Named("backbone.norm_f"),
        "output": Named("lm_head"),
    }
)
# How new models were made, how they are trained, and which implementation computes them.
_INERT = PRETRAINED_KEYS | {
    "chunk_size",
    "expand",
    "head_dim",
    "initializer_range",
    "pad_vocab_size_multiple",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_cache",
    "use_falcon_mambapy",
    "use_mambapy",
}
_IMPLEMENTED = {"hidden_act": ("silu", "swish"), "use_bias": (False,), "time_step_limit": TIME_STEP_LIMITS}

MAMBA = Family(
    name="mamba",
    config=MambaConfig,
    graph=mamba,
    origins=MappingProxyType({**_NAMES, **mamba_origins("mixer")}),
    layers="backbone.layers.{i}.",
    implemented=MappingProxyType(_IMPLEMENTED),
    inert=_INERT,
    constants=MappingProxyType({"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_act": "silu"}),
    normalized=normalized,
    spelled=spelled,
)


def _normalized2(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with what follows from other keys."""
    made = {key: value for key, value in values.items() if key != "time_step_rank"}
    if isinstance(made.get("hidden_size"), int):
        made.setdefault("intermediate_size", made.get("expand", 2) * made["hidden_size"])
    return made


def _spelled2(values: dict[str, Any]) -> dict[str, Any]:
    """config.json as Transformers computes it: two factors of the inner size."""
    made = {key: value for key, value in values.items() if key != "intermediate_size"}
    inner = values["intermediate_size"]
    return {**made, "expand": inner // values["hidden_size"], "head_dim": inner // values["num_heads"]}


MAMBA2 = replace(
    MAMBA,
    name="mamba2",
    config=Mamba2Config,
    graph=mamba2,
    origins=MappingProxyType({**_NAMES, **mamba2_origins("mixer")}),
    constants=MappingProxyType({"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_act": "silu"}),
    normalized=_normalized2,
    spelled=_spelled2,
)
