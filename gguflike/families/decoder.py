"""What most families share: the hyper-parameters of a decoder, its rotation, its names in a checkpoint, its graph.

Key and tensor names are llama.cpp's (gguf's constants.py); defaults are those of Transformers' LlamaConfig.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from gguflike.errors import CheckpointError
from gguflike.families.config import key
from gguflike.families.inert import PRETRAINED_KEYS
from gguflike.families.origins import Made, Named
from gguflike.families.parts import Attention, Block, Branch, Embedding, FeedForward, Graph, Head, Norm, Rope, Scaling
from gguflike.families.rope import llama3_factors, recognise_llama3, scaling_kind, yarn_magnitude
from gguflike.families.transforms import RopePermute
from gguflike.frozen import frozen, replace

if TYPE_CHECKING:
    from gguflike.families.origins import Floats, Origin


@frozen
class Decoder:
    """Hyper-parameters. Sizes are numbers of values, ``n_ctx`` is in tokens."""

    n_layer: int = key("block_count", "num_hidden_layers")
    n_ctx: int = key("context_length", "max_position_embeddings", default=2048)
    n_embd: int = key("embedding_length", "hidden_size")
    n_ff: int = key("feed_forward_length", "intermediate_size")
    n_head: int = key("attention.head_count", "num_attention_heads")
    n_head_kv: int = key("attention.head_count_kv", "num_key_value_heads", default=lambda c: c.n_head)
    head_dim: int = key(
        "attention.key_length",
        "head_dim",
        default=lambda c: c.n_embd // c.n_head,
        copies=("attention.value_length",),
    )
    n_rot: int = key("rope.dimension_count", None, default=lambda c: c.head_dim)
    n_vocab: int = key("vocab_size", "vocab_size")
    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0)
    rope_scaling: str | None = key("rope.scaling.type", "rope.scaling.type")  # "linear" or "yarn"
    rope_factor: float | None = key("rope.scaling.factor", "rope.scaling.factor")
    rope_context: int | None = key("rope.scaling.original_context_length", "rope.scaling.original_context_length")
    yarn_beta_fast: float | None = key("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_fast")
    yarn_beta_slow: float | None = key("rope.scaling.yarn_beta_slow", "rope.scaling.yarn_beta_slow")
    # What cosines and sines are multiplied by beside YaRN's own; all in all, by a key that llama.cpp does not read.
    rope_attn_factor: float | None = key("rope.scaling.attn_factor", "rope.scaling.attn_factor")
    yarn_attn_factor: float | None = key("rope.scaling.yarn_attn_factor", "rope.scaling.yarn_attn_factor")
    yarn_truncate: bool = key("gguflike.rope.yarn_truncate", "rope.scaling.truncate", default=True, implied=True)
    # llama.cpp knows Llama 3's scaling only as rope_freqs.weight, so its four numbers are kept under our own keys.
    llama3_factor: float | None = key("gguflike.rope.llama3.factor", "rope.llama3.factor")
    llama3_low: float | None = key("gguflike.rope.llama3.low_freq_factor", "rope.llama3.low_freq_factor")
    llama3_high: float | None = key("gguflike.rope.llama3.high_freq_factor", "rope.llama3.high_freq_factor")
    llama3_context: int | None = key(
        "gguflike.rope.llama3.original_context_length", "rope.llama3.original_context_length"
    )
    rope_freqs: bool = key(None, None, default=lambda c: c.llama3_factor is not None, tensor="rope_freqs.weight")
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6)
    attention_bias: bool = key(None, "attention_bias", default=False, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, "mlp_bias", default=False, tensor="blk.0.ffn_up.bias")
    untied: bool = key(None, "tie_word_embeddings", default=True, tensor="output.weight", negated=True)


UNSCALED = "none"


def unscaled() -> Any:
    """The field of the scaling for models whose files say that there is none, where there is none."""
    return key("rope.scaling.type", "rope.scaling.type", default=UNSCALED)


def rms(c: Decoder, role: str, size: int | None = None, **changes: Any) -> Norm:
    """A norm with the configuration's epsilon, of ``n_embd`` values unless told otherwise."""
    return Norm(role, size or c.n_embd, c.norm_eps, **changes)


def attention(c: Decoder, rope: Rope | None, **changes: Any) -> Attention:
    """Attention with the configuration's sizes; ``changes`` are its other settings."""
    plain = Attention(
        c.n_embd, c.n_head, c.n_head_kv, c.head_dim, rope, bias=c.attention_bias, output_bias=c.attention_bias
    )
    return replace(plain, **changes)


def feed_forward(c: Decoder, **changes: Any) -> FeedForward:
    """The feed-forward with the configuration's sizes; ``changes`` are its other settings."""
    return replace(FeedForward(c.n_embd, c.n_ff, bias=c.mlp_bias), **changes)


def qk_norms(c: Decoder, **changes: Any) -> dict[str, Norm]:
    """The norms of queries and keys, each of one head; ``changes`` are their settings."""
    return {
        "q_norm": rms(c, "attn_q_norm", c.head_dim, **changes),
        "k_norm": rms(c, "attn_k_norm", c.head_dim, **changes),
    }


def decoder(
    c: Decoder, block: Callable[[int], Block], norm: Norm | None = None, embedding_scale: float = 1.0, **head: Any
) -> Graph:
    """A graph of the blocks that ``block`` gives for each layer, between the embedding, times ``embedding_scale``, and
    the last norm and logits, whose settings are ``head``."""
    return Graph(
        Embedding(c.n_vocab, c.n_embd, embedding_scale),
        tuple(block(layer) for layer in range(c.n_layer)),
        norm or rms(c, "output_norm"),
        Head(c.n_vocab, c.n_embd, tied=not c.untied, **head),
    )


def pre_norm(c: Decoder, mixer: Attention, after: Any) -> Block:
    """A block of two branches that begin with a norm: attention and what follows it."""
    return (Branch(rms(c, "attn_norm"), mixer), Branch(rms(c, "ffn_norm"), after))


def rope_of(c: Decoder, pairs: Literal["norm", "neox"], **changes: Any) -> Rope:
    """The configuration's rotation; ``changes`` are settings of layers that differ."""
    scaling = None
    if c.rope_scaling not in (None, UNSCALED):
        scaling = Scaling(
            scaling_kind(str(c.rope_scaling)),
            c.rope_factor or 1.0,
            c.rope_context or c.n_ctx,
            c.yarn_beta_fast or Scaling.beta_fast,
            c.yarn_beta_slow or Scaling.beta_slow,
            magnitude(c),
            c.yarn_truncate,
        )
    plain = Rope(c.n_rot, c.rope_base, pairs, scaling, ("rope_freqs.weight",) if c.rope_freqs else ())
    return replace(plain, **changes)


def magnitude(c: Decoder) -> float | None:
    """What cosines and sines are multiplied by, where the configuration says so."""
    if c.yarn_attn_factor is not None or c.rope_attn_factor is None:
        return c.yarn_attn_factor
    return c.rope_attn_factor * (yarn_magnitude(c.rope_factor or 1.0) if c.rope_scaling == "yarn" else 1.0)


def window_notices(c: Any) -> list[str]:
    """That llama.cpp does not know the sliding window of such an architecture, where one hides anything."""
    notice = f"llama.cpp knows no sliding window in this architecture: beyond {c.window} tokens it computes otherwise"
    return [notice] if 0 < c.window < c.n_ctx else []


def llama3_rope_freqs(c: Decoder) -> Floats:
    """``rope_freqs.weight`` of a model with Llama 3's scaling."""
    assert c.llama3_factor is not None, "the graph has the tensor only with these four numbers"
    assert c.llama3_low is not None
    assert c.llama3_high is not None
    assert c.llama3_context is not None
    return llama3_factors(c.rope_base, c.n_rot, c.llama3_factor, c.llama3_low, c.llama3_high, c.llama3_context)


STRETCHED_NAMES: Mapping[str, Origin] = MappingProxyType({"rope_freqs": Made(llama3_rope_freqs)})

AnyDecoder = TypeVar("AnyDecoder", bound=Decoder)


def recover_llama3(c: AnyDecoder, read: Callable[[str], Floats]) -> AnyDecoder:
    """Llama 3's scaling from the factors alone, for files that we did not write."""
    if not c.rope_freqs or c.llama3_factor is not None:
        return c
    factor, low, high, context = recognise_llama3(read("rope_freqs.weight"), c.rope_base)
    return replace(c, llama3_factor=factor, llama3_low=low, llama3_high=high, llama3_context=int(context))


@frozen
class LongRope(Decoder):
    """A decoder that may stretch its rotation by two lists of divisors, for long contexts and for short ones, which
    GGUF holds as tensors."""

    long_factor: tuple[float, ...] | None = key(None, "rope.longrope.long_factor", listed=True)
    short_factor: tuple[float, ...] | None = key(None, "rope.longrope.short_factor", listed=True)
    longrope: bool = key(None, None, default=lambda c: c.rope_scaling == "longrope", tensor="rope_factors_long.weight")


def first_context() -> Any:
    """The field of the context that a stretched rotation was first trained with, for models whose config.json may have
    it beside the settings of the rotation."""
    names = ("rope.scaling.original_context_length", "original_max_position_embeddings")
    return key("rope.scaling.original_context_length", names)


def longrope_of(c: LongRope, pairs: Any) -> Rope:
    """The configuration's rotation. A file may have the tensors without naming the type."""
    if not c.longrope:
        return rope_of(c, pairs)
    for name, factors in (("long_factor", c.long_factor), ("short_factor", c.short_factor)):
        if factors is not None and len(factors) != c.n_rot // 2:
            raise CheckpointError(
                f"rope setting {name} has the wrong length",
                field="config.json",
                expected=f"{c.n_rot // 2} numbers, one for each pair of dimensions",
                got=len(factors),
            )
    scaling = Scaling("longrope", context=c.rope_context or c.n_ctx, magnitude=c.rope_attn_factor)
    return Rope(c.n_rot, c.rope_base, pairs, scaling, ("rope_factors_long.weight", "rope_factors_short.weight"))


def recover_longrope(c: Any, read: Callable[[str], Floats]) -> Any:
    """The lists of divisors, from the tensors."""
    if not c.longrope or c.long_factor is not None:
        return c
    long, short = (
        tuple(float(str(value)) for value in read(f"rope_factors_{kind}.weight")) for kind in ("long", "short")
    )
    return replace(c, rope_scaling="longrope", long_factor=long, short_factor=short)


def recover_stretched(c: Any, read: Callable[[str], Floats]) -> Any:
    """What stretches positions, by either, from the tensors that do."""
    return recover_llama3(recover_longrope(c, read), read)


def _long_factors(c: LongRope) -> Floats:
    return np.asarray(c.long_factor, np.float32)


def _short_factors(c: LongRope) -> Floats:
    return np.asarray(c.short_factor, np.float32)


LONGROPE_NAMES = MappingProxyType(
    {
        "rope_factors_long": Made(_long_factors),
        "rope_factors_short": Made(_short_factors),
    }
)


# The names of a decoder in Transformers, which most families share, and what Llama 3's scaling is in a file.
DECODER_NAMES: Mapping[str, Origin] = MappingProxyType(
    {
        **STRETCHED_NAMES,
        "token_embd": Named("model.embed_tokens"),
        "attn_norm": Named("input_layernorm"),
        "attn_q": Named("self_attn.q_proj"),
        "attn_k": Named("self_attn.k_proj"),
        "attn_v": Named("self_attn.v_proj"),
        "attn_output": Named("self_attn.o_proj"),
        "ffn_norm": Named("post_attention_layernorm"),
        "ffn_gate": Named("mlp.gate_proj"),
        "ffn_up": Named("mlp.up_proj"),
        "ffn_down": Named("mlp.down_proj"),
        "output_norm": Named("model.norm"),
        "output": Named("lm_head"),
    }
)

# The same where Transformers turns pairs half a head apart and llama.cpp adjacent ones.
PERMUTED_NAMES: Mapping[str, Origin] = MappingProxyType(
    {
        **DECODER_NAMES,
        "attn_q": Named("self_attn.q_proj", RopePermute()),
        "attn_k": Named("self_attn.k_proj", RopePermute()),
    }
)

# Names of the norms of queries and keys.
QK_NAMES = MappingProxyType({"attn_q_norm": Named("self_attn.q_norm"), "attn_k_norm": Named("self_attn.k_norm")})

# The activation of most gated feed-forwards, as config.json may call it.
SILU = MappingProxyType({"hidden_act": ("silu", "swish")})


def exported(model_class: str, model_type: str, hidden_act: str = "silu", **more: Any) -> Mapping[str, Any]:
    """What an exported config.json says of a class of models beside their hyper-parameters."""
    return MappingProxyType(
        {"architectures": [model_class], "model_type": model_type, "hidden_act": hidden_act, **more}
    )


# Keys of config.json that describe training, serving or the file itself, not what the model computes.
INERT_KEYS = PRETRAINED_KEYS | {
    "attention_dropout",
    "initializer_range",
    "is_llama_config",
    "pretraining_tp",  # splits the same matrix products over devices
    "rope_interleaved",  # a note of SmolLM's trainer; LlamaForCausalLM does not read it
    "use_cache",
}
