"""What families with experts share: their hyper-parameters, their names in a checkpoint, which layers have experts.

Key and tensor names are llama.cpp's (gguf's constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gguflike.errors import UnsupportedError
from gguflike.families.config import Via, key
from gguflike.families.decoder import Decoder
from gguflike.families.origins import Either, Named, Origin, Stacked
from gguflike.families.parts import FeedForward
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.transforms import Row, Share
from gguflike.frozen import frozen, replace

# What trains routers or spreads experts over devices, and layers behind the others, which are left out.
ROUTER_KEYS = frozenset(
    {
        "input_jitter_noise",
        "num_nextn_predict_layers",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
    }
)


@frozen
class Mixture(Decoder):
    """A decoder whose tokens go to ``n_expert_used`` of ``n_expert`` feed-forwards of ``n_ff_expert`` hidden values."""

    n_expert: int = key("expert_count", ("num_experts", "num_local_experts", "n_routed_experts"))
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok")
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size")


def experts(c: Any, router: Router, **changes: Any) -> Experts:
    """Experts with the configuration's sizes; ``changes`` are their other settings. Errors as of `enough`."""
    return enough(replace(Experts(c.n_embd, c.n_ff_expert, c.n_expert, c.n_expert_used, router), **changes))


def enough(part: Experts) -> Experts:
    """The same experts. UnsupportedError where a token's are more than the groups hold that they are chosen from, or
    there are no such groups: who routes takes others then, each implementation its own."""
    groups, chosen = part.router.groups, part.router.groups_used
    if part.count % groups or chosen > groups:
        raise UnsupportedError(
            "groups of experts",
            field="expert_group_count, expert_group_used_count (n_group, topk_group)",
            expected=f"{part.count} experts in groups of one size, of which a token's are at most all",
            got=f"{groups} groups, of which a token's are {chosen}",
        )
    if part.used > (held := part.count // groups * chosen):
        of = f", which {chosen} of {groups} groups hold" if groups > 1 else ""
        raise UnsupportedError(
            "more experts for a token than there are to choose from",
            field="expert_used_count (num_experts_per_tok)",
            expected=f"at most {held}{of}",
            got=part.used,
        )
    return part


def shared(c: Any, n_ff: int, **changes: Any) -> FeedForward | None:
    """The feed-forward of ``n_ff`` hidden values that all tokens share; none of 0. UnsupportedError where it would have
    biases, as the other feed-forwards of a model have: GGUF has no names for them."""
    if n_ff and getattr(c, "mlp_bias", False):
        raise UnsupportedError(
            "biases of the experts that all tokens share", field="mlp_bias", expected=False, got=True
        )
    return replace(FeedForward(c.n_embd, n_ff, suffix="_shexp"), **changes) if n_ff else None


def n_groups() -> Any:
    """The field of how many groups experts form."""
    return key("expert_group_count", "n_group", default=1)


def n_groups_used() -> Any:
    """The field of from how many groups a token's experts are chosen."""
    return key("expert_group_used_count", "topk_group", default=1)


SCORINGS: Mapping[int, Literal["softmax", "sigmoid"]] = {1: "softmax", 2: "sigmoid"}  # by expert_gating_func
SOFTMAX, SIGMOID = SCORINGS


def grouped_router(c: Any, choice_bias: Any = "exp_probs_b.bias") -> Router:
    """The router of a configuration with the fields ``gating``, ``normalize``, ``expert_scale``, ``n_groups`` and
    ``n_groups_used``."""
    return Router(
        SCORINGS[c.gating],
        c.normalize,
        c.expert_scale,
        choice_bias=choice_bias,
        groups=c.n_groups,
        groups_used=c.n_groups_used,
    )


def gating(default: int) -> Any:
    """The field of how logits become scores, a key of SCORINGS."""
    numbers = {name: number for number, name in SCORINGS.items()}

    def read(_: Any, value: Any) -> int:
        if value not in numbers:
            raise ValueError(f"one of {', '.join(numbers)}")
        return numbers[value]

    def parse(_: Any, value: Any) -> Any:
        if not isinstance(value, int) or value not in SCORINGS:
            raise ValueError(", ".join(f"{number} ({name})" for number, name in SCORINGS.items()))
        return value

    return key("expert_gating_func", "scoring_func", default=default, via=Via(read, lambda _: None, parse))


def dense_lead(*config: str, default: Any = 0) -> Any:
    """The field of how many layers at the beginning have no experts: a number, or the kind of each layer."""
    via = Via(_lead, lambda c: _written(c, config[0]))
    return key("leading_dense_block_count", config, default=default, zero=True, via=via)


def unsaid_is_one_dense(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of models of which the first layer has no experts where it does not say which have."""
    layers: int = values.get("num_hidden_layers") or 1
    unsaid = values.get("mlp_layer_types") is None and values.get("first_k_dense_replace") is None
    return {**values, "mlp_layer_types": ["dense", *["sparse"] * (layers - 1)]} if unsaid else values


def _lead(c: Any, value: Any) -> int:
    if isinstance(value, int):
        return value
    count = next((i for i, kind in enumerate(value) if kind != "dense"), len(value)) if isinstance(value, list) else -1
    if count < 0 or any(kind != "sparse" for kind in value[count:]) or len(value) != c.n_layer:
        raise ValueError("a number, or a list for all layers of first 'dense' and then 'sparse'")
    return count


def _written(c: Any, name: str) -> Any:
    if name != "mlp_layer_types":
        return c.n_dense
    return ["dense" if layer < c.n_dense else "sparse" for layer in range(c.n_layer)]


def expert_names(
    block: str = "mlp",
    router: str = "gate",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Mapping[str, Origin]:
    """Origins of the router and of experts that are saved one by one, or, as Transformers has them in memory, stacked;
    ``names`` are those of gate, up and down."""
    gate, up, down = (f"{block}.experts.{{e}}.{name}" for name in names)
    both = f"{block}.experts.gate_up_proj"
    return {
        "ffn_gate_inp": Named(f"{block}.{router}"),
        "ffn_gate_exps": Either((Stacked(gate), Named(both, Share(index=0), bare=True))),
        "ffn_up_exps": Either((Stacked(up), Named(both, Share(index=1), bare=True))),
        "ffn_down_exps": Either((Stacked(down), Named(f"{block}.experts.down_proj", bare=True))),
    }


def shared_names(block: str) -> Mapping[str, Origin]:
    """Origins of the experts that all tokens share."""
    return {f"ffn_{role}_shexp": Named(f"{block}.{role}_proj") for role in ("gate", "up", "down")}


def one_row(name: str, bare: bool = False) -> Named:
    """The origin of a vector that is saved as a matrix of one row."""
    return Named(name, Row(), bare)
