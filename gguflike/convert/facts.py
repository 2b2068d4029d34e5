"""What recipes ask: which tensors are weight matrices, which category each is of, and where in the model it stands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gguflike.container import Typed
from gguflike.families.parts import role_of
from gguflike.families.storage import Storage, storage_of

# Parts of names, in the order in which llama.cpp looks for them, and the category that rules speak of.
# Matrices of experts (ffn_down_exps, ffn_down_shexp) belong to the plain ones, whatever holds values to attn_v.
_CATEGORIES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

# Small or delicate matrices that llama.cpp's quantizer leaves as they are.
_KEPT = re.compile(
    r"(_norm|ffn_gate_inp|ffn_gate_tid2eid|shortconv\.conv|indexer\.[kq]_proj|attn_rel_b)\.weight"
    r"|time_mix_(first|lerp_fused|[wvag]\d|decay_w\d)\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|^(position_embd|token_types)\.weight$|\.(position_embd|rel_pos|patch_embd|patch_merger)"
    r"|sam\.(pos_embd|neck\.|net_)|a\.rvq\.codebook|mm\.a\.code_embd"
)
# Matrices that llama.cpp's converter stores as float32, whatever it is asked for.
_SINGLE = re.compile(
    r".*_norm|ffn_gate_inp(_shexp)?|position_embd|token_types|ssm_conv1d(_[qkv])?|shortconv\.conv|indexer\.proj"
    r"|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)|altup_(correct|predict)_coef"
)


@dataclass(frozen=True)
class Facts:
    """What rules may ask about a model.

    ``gqa``: query heads per key-value head in the first layer. ``tied``: the embedding is also the output matrix.
    ``wide`` and ``lean`` are exceptions of the architecture. ``order``: the place of each weight matrix among those of
    its category, by name; ``n_values``: how many matrices hold attention values.
    """

    n_layer: int
    gqa: int = 1
    n_expert: int = 0
    tied: bool = False
    imatrix: bool = False
    wide: bool = False
    storage: Storage = field(default_factory=Storage)
    order: Mapping[str, int] = field(default_factory=dict, repr=False)
    n_values: int = 0

    @property
    def lean(self) -> bool:
        return self.storage.lean

    def quantizable(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of ``shape`` (numpy order) is a weight matrix; the others keep the type they have."""
        exempt = self.storage.unquantized
        return quantizable(name, shape) and not (exempt and exempt.search(name))

    def category(self, name: str) -> str:
        """The word that rules have for a tensor; the embedding of a tied model is its output matrix."""
        known = category(name)
        return "output" if known == "token_embd" and self.tied else known

    def place(self, name: str, counted: bool) -> tuple[int, int]:
        """(place, number of places) of a matrix, as rules for layers count.

        Values are counted among themselves, since not every layer has some. Feed-forward matrices are, too, though
        among as many places as there are layers; in models with experts, which have several in a layer, the layer
        counts, unless ``counted``.
        """
        place, layer = self.order.get(name, 0), role_of(name)[1]
        if category(name) == "attn_v":
            return place, self.n_values
        if self.n_expert > 1 and not counted and layer is not None:
            return layer, self.n_layer
        return place, self.n_layer


def facts(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], imatrix: bool) -> Facts:
    """The facts of a model, from the keys and the tensors' shapes (numpy order) of its file."""
    architecture = str(untyped(metadata.get("general.architecture", "")))
    storage = storage_of(architecture)
    names = sorted(shapes, key=lambda name: (_layer(name), name))  # llama.cpp's order
    heads, kv_heads, n_expert, n_layer = (
        _number(metadata.get(f"{architecture}.{key}"))
        for key in ("attention.head_count", "attention.head_count_kv", "expert_count", "block_count")
    )
    kv_heads = heads if f"{architecture}.attention.head_count_kv" not in metadata else kv_heads
    n_layer = n_layer or max(map(_layer, names), default=-1) + 1
    order: dict[str, int] = {}
    known = Facts(
        n_layer=n_layer,
        gqa=heads // kv_heads if heads and kv_heads else 0,
        n_expert=n_expert,
        tied="output.weight" not in shapes,
        imatrix=imatrix,
        wide=n_layer == storage.wide_layers > 0 and not (storage.grouped and heads == kv_heads),
        storage=storage,
        order=order,
        n_values=sum(category(name) == "attn_v" for name in names),
    )
    counts: Counter[str] = Counter()
    for name in names:
        if known.quantizable(name, shapes[name]):
            order[name] = counts[category(name)]
            counts[category(name)] += 1
    return known


def quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a weight matrix in any architecture; norms, biases and the like are not."""
    return name.endswith(".weight") and any(size > 1 for size in shape[:-1]) and _KEPT.search(name) is None


def single(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a converted tensor is float32 in every file, also in one of F16 or BF16."""
    return len(shape) < 2 or not name.endswith(".weight") or _SINGLE.fullmatch(role_of(name)[0]) is not None


def category(name: str) -> str:
    """The word that rules have for a tensor; "other" for one that no rule speaks of."""
    if name == "output.weight":
        return "output"
    if name in _EMBEDDINGS:
        return "token_embd"
    return next((category for part, category in _CATEGORIES if part in name), "other")


def _layer(name: str) -> int:
    layer = role_of(name)[1]
    return -1 if layer is None else layer


def untyped(value: Any) -> Any:
    """A value of metadata without its type."""
    return value.value if isinstance(value, Typed) else value


def _number(value: Any) -> int:
    """An integer, or the first of an array of one per layer; 0 where there is none."""
    value = untyped(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = next(iter(value), 0)
    return int(value) if isinstance(value, int | np.integer) else 0
