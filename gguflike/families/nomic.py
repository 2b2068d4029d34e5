"""nomic-bert: BERT that turns; as embeddings, some with experts in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families.bert import HEADS, INERT_KEYS, Encoder, encoder
from gguflike.families.config import Via, key
from gguflike.families.family import Family, Small
from gguflike.families.mixture import ROUTER_KEYS, enough
from gguflike.families.origins import Named, Piece
from gguflike.families.parts import Attention, FeedForward, Graph, Mixer, Rope, Tensor
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.parts.extras import Constant, Path, Sum
from gguflike.families.pooling import labelled, spelled_labels
from gguflike.families.transforms import IDENTITY, Transposed
from gguflike.frozen import frozen, replace


@frozen
class NomicBert(Encoder):
    """Hyper-parameters."""

    head_dim: int = key(
        "attention.key_length",
        "head_dim",
        default=lambda c: c.n_embd // c.n_head,
        copies=("attention.value_length",),
    )
    rope_base: float = key("rope.freq_base", "rope.theta", default=1000.0)


_BIAS = "mlp.experts.bias"


def _with_experts(c: Any, layers: int) -> list[int]:
    """Which of the first ``layers`` have experts."""
    return [layer for layer in range(layers) if layer % c.expert_period == 1]


def _biases(c: Any) -> int:
    """How many values the biases of all layers have."""
    return len(_with_experts(c, c.n_layer)) * int(c.n_embd)


def _complete(c: Any, values: Any) -> Any:
    if not isinstance(values, list) or len(values) != _biases(c):
        raise ValueError(f"{_biases(c)} values: {c.n_embd} of each tensor {_BIAS}")
    return values


@frozen
class NomicBertMoe(NomicBert):
    """Hyper-parameters: layer i has experts where i modulo ``expert_period`` is 1. ``expert_bias`` is added to what
    they give, ``n_embd`` values of each such layer; GGUF has no tensor for it."""

    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_eps", default=1e-5)
    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0)
    n_expert: int = key("expert_count", "num_experts", default=8)
    n_expert_used: int = key("expert_used_count", "moe_top_k", default=2)
    expert_period: int = key("moe_every_n_layers", "moe_every_n_layers")
    expert_bias: tuple[float, ...] = key(
        "gguflike.expert_bias",
        "expert_bias",
        default=lambda c: (0.0,) * _biases(c),
        signed=True,
        listed=True,
        implied=True,
        via=Via(_complete, lambda c: c.expert_bias, _complete),
    )


def nomic_bert(c: NomicBert) -> Graph:
    """Rotary positions, no biases but those of the norms, a gated feed-forward."""
    hidden = FeedForward(c.n_embd, c.n_ff)
    return encoder(c, _attention(c), lambda _: hidden)


def nomic_bert_moe(c: NomicBertMoe) -> Graph:
    """Rotary positions, biases everywhere, feed-forwards without gates; weights of experts do not sum to 1."""
    hidden = FeedForward(c.n_embd, c.n_ff, bias=True, activation="gelu", gated=False)
    router = Router("softmax", normalize=False)
    part = Experts(c.n_embd, c.n_ff, c.n_expert, c.n_expert_used, router, activation="gelu", gated=False)
    experts = enough(part)

    def second(layer: int) -> Mixer:
        if layer % c.expert_period != 1:
            return hidden
        start = len(_with_experts(c, layer)) * c.n_embd
        bias = c.expert_bias[start : start + c.n_embd]
        return Sum((Path(None, experts), Path(None, Constant(bias)))) if any(bias) else experts

    return encoder(c, _attention(c, bias=True, output_bias=True), second)


def _attention(c: NomicBert, **changes: Any) -> Attention:
    rope = Rope(c.head_dim, c.rope_base, "neox")
    plain = Attention(c.n_embd, c.n_head, c.n_head, c.head_dim, rope, fused=True, causal=c.causal)
    return replace(plain, **changes)


@frozen
class _Flat:
    """A tensor that has the rows of all experts, one behind the other; ``turned``: as columns."""

    name: str
    turned: bool = False

    def names(self, prefix: str, tensor: Tensor) -> list[str]:  # noqa: ARG002 - part of the interface
        return [prefix + self.name]

    def pieces(self, prefix: str, tensor: Tensor, c: NomicBertMoe) -> list[Piece]:
        [name], shape = self.names(prefix, tensor), (c.n_expert * c.n_ff, c.n_embd)
        via = Transposed() if self.turned else IDENTITY
        return [Piece(name, shape, 1, c.n_ff, expert * c.n_ff, via, stacked=True) for expert in range(c.n_expert)]


# What Nomic's own code calls what Transformers' class of the same name has renamed.
_PUBLISHED = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "layer_norm_eps": "layer_norm_epsilon",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_ACTIVATIONS = {"swiglu": "silu", "gelu": "gelu"}


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json in Transformers' words, with the positions that the published models were trained with."""
    made = labelled(values)
    for name, published in _PUBLISHED.items():
        if published in made:
            made[name] = made.pop(published)
    if "activation_function" in made:
        activation = made.pop("activation_function")
        made["hidden_act"] = _ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else activation
    positions, trained = made.pop("n_positions", None), made.pop("max_trained_positions", None)
    if positions is not None:
        made["max_position_embeddings"] = _TRAINED.get((positions, trained or 2048), positions)
    return made


# Positions that config.json says there are, and were trained with, of v1 and of v2 -> those that were.
_TRAINED = {(8192, 2048): 2048, (2048, 2048): 512}


def spelled_moe(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json in the words of Nomic's own code, which it names, since Transformers' class of the same
    name has no experts and leaves them out without a word."""
    made = spelled_labels("NomicBert")({key: value for key, value in config.items() if key != "head_dim"})
    for name, published in _PUBLISHED.items():
        made[published] = made.pop(name)
    context = made.pop("max_position_embeddings")
    trained = {new: old for old, new in _TRAINED.items()}.get(context, (context, context))
    ropes = {"rotary_emb_base": made.pop("rope_theta")}
    return {**made, **ropes, "n_positions": trained[0], "max_trained_positions": trained[1]}


def _experts(values: Mapping[str, Any]) -> Family[Any] | None:
    """The family of a model with experts."""
    return NOMIC_BERT_MOE if values.get("moe_every_n_layers") else None


def notices(c: NomicBertMoe) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    said = "llama.cpp knows no bias of what experts give (mlp.experts.bias) and leaves it out: its vectors differ a bit"
    return [said] if any(c.expert_bias) else []


_NAMES = MappingProxyType(
    {
        "token_embd": Named("embeddings.word_embeddings"),
        "token_types": Named("embeddings.token_type_embeddings"),
        "token_embd_norm": Named("emb_ln"),
        "attn_qkv": Named("attn.Wqkv"),
        "attn_output": Named("attn.out_proj"),
        "attn_output_norm": Named("norm1"),
        # The original multiplies fc11 by the activation of fc12.
        "ffn_up": Named("mlp.fc11"),
        "ffn_gate": Named("mlp.fc12"),
        "ffn_down": Named("mlp.fc2"),
        "layer_output_norm": Named("norm2"),
    }
)
# What Nomic's own code can do and its models do not.
_IMPLEMENTED = MappingProxyType(
    {
        "causal": (False,),
        "prenorm": (False,),
        "parallel_block": (False,),
        "parallel_block_tied_norm": (False,),
        "rotary_emb_fraction": (1.0,),
        "rotary_emb_interleaved": (False,),
        "rotary_scaling_factor": (),
        "rotary_emb_scale_base": (),
        "scale_attn_by_inverse_layer_idx": (False,),
        "scale_attn_weights": (True,),
        "use_rms_norm": (False,),
        "tie_word_embeddings": (True, False),
    }
)
_SWITCHES = """
    add_pooling_layer attn_pdrop dense_seq_output embd_pdrop fused_bias_fc fused_dropout_add_ln pad_vocab_size_multiple
    reorder_and_upcast_attn resid_pdrop summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj use_flash_attn use_xentropy
"""
_INERT = INERT_KEYS | frozenset(_SWITCHES.split())

NOMIC_BERT = Family(
    name="nomic-bert",
    config=NomicBert,
    graph=nomic_bert,
    layers="encoder.layers.{i}.",
    origins=_NAMES,
    left_out=HEADS,
    renamed=((r"^(bert|nomic_bert)\.", ""),),
    inert=_INERT,
    implemented=MappingProxyType(
        {
            **_IMPLEMENTED,
            "hidden_act": ("silu",),
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), (False,)),
            "moe_every_n_layers": (0,),
        }
    ),
    constants=MappingProxyType({"architectures": ["NomicBertModel"], "model_type": "nomic_bert", "hidden_act": "silu"}),
    normalized=normalized,
    spelled=spelled_labels("NomicBert"),
    variant=_experts,
)
_CODE = "nomic-ai/nomic-bert-2048--{}_hf_nomic_bert."
NOMIC_BERT_MOE = replace(
    NOMIC_BERT,
    name="nomic-bert-moe",
    config=NomicBertMoe,
    graph=nomic_bert_moe,
    origins=MappingProxyType(
        {
            **_NAMES,
            "ffn_up": Named("mlp.fc1"),
            "ffn_gate_inp": Named("mlp.router.layer"),
            "ffn_up_exps": _Flat("mlp.experts.mlp.w1"),
            "ffn_down_exps": _Flat("mlp.experts.mlp.w2", turned=True),
        }
    ),
    small=MappingProxyType({"expert_bias": Small(_BIAS, lambda c: (c.n_embd,), lambda c: _with_experts(c, c.n_layer))}),
    inert=_INERT | ROUTER_KEYS | {"moe_impl", "moe_resid_pdrop"},
    implemented=MappingProxyType(
        {
            **_IMPLEMENTED,
            "hidden_act": ("gelu",),
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), (True,)),
            "expert_choice_router": (False,),
            "ffn_div": (1,),
            "moe_normalize_expert_weights": (False,),
            "num_shared_experts": (0,),
        }
    ),
    constants=MappingProxyType(
        {
            "architectures": ["NomicBertModel"],
            "auto_map": {
                "AutoConfig": _CODE.format("configuration") + "NomicBertConfig",
                "AutoModel": _CODE.format("modeling") + "NomicBertModel",
            },
            "model_type": "nomic_bert",
            "activation_function": "gelu",
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
            **{"causal": False, "prenorm": False, "moe_normalize_expert_weights": False},
            **{"rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None},
        }
    ),
    spelled=spelled_moe,
    notices=notices,
    variant=None,
)
