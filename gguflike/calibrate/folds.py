"""Which scales can move from one tensor of a model to another without changing what it computes.

A *fold* is a vector s of positive scales. What gives the values that matrices read is divided by it, and their columns
are multiplied by it:

    norm    a norm's gain (and bias), and the columns of all matrices that read what it gives
    value   the rows of the value matrix, and the columns of the output matrix of attention: values are averaged, by
            weights that do not depend on them. Query heads that share a key head share its scales
    up      the rows of the up matrix, and the columns of the down matrix of a gated feed-forward, which is linear in up

The product is the same up to the rounding of floats. What is quantized is not: that is what AWQ (Lin et al. 2023,
arXiv:2306.00978) and SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) use; scaling.py has their formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gguflike.families.parts import Attention, Branch, FeedForward, Graph, Head, Mixer, Norm
from gguflike.families.parts.experts import Experts
from gguflike.families.parts.extras import Sum
from gguflike.frozen import frozen

Floats = npt.NDArray[np.float32]

# The matrices that read a mixer's input as it is, of whatever part. None of these roles is of another matrix.
_READERS = {
    *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "attn_q_a", "attn_kv_a_mqa", "shortconv.in_proj"),
    *("ssm_in", "ssm_ba", "ssm_beta", "ssm_alpha", "ssm_f_a", "ssm_g_a", "ffn_gate", "ffn_up"),
    *("ffn_gate_shexp", "ffn_up_shexp", "ffn_gate_inp", "ffn_gate_inp_shexp", "ffn_latent_down"),
    *("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"),
}
_OF_LATENTS = {"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"}


@frozen
class Rows:
    """The rows of a tensor that a fold divides: those from ``start`` on, as many as there are scales."""

    name: str
    start: int = 0


@frozen
class Fold:
    """``divided`` are the tensors that give values, ``multiplied`` the matrices that read them, of the same input.

    There are ``size`` scales: of ``heads`` equal parts, each of which stands ``group`` times in a row among the
    columns.
    """

    kind: Literal["norm", "value", "up"]
    size: int
    divided: tuple[Rows, ...]
    multiplied: tuple[str, ...]
    heads: int = 1
    group: int = 1

    def columns(self, scales: Floats) -> Floats:
        """The scale of each column of ``multiplied``."""
        repeated: Floats = np.repeat(scales.reshape(self.heads, -1), self.group, axis=0).reshape(-1)
        return repeated

    def shared(self, columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values of columns (..., columns), by scale and by which of the columns that share it: (..., group, size)."""
        parts = columns.reshape(*columns.shape[:-1], self.heads, self.group, -1)
        return np.asarray(np.moveaxis(parts, -2, -3).reshape(*columns.shape[:-1], self.group, self.size))


@frozen
class Scaling:
    """What a tensor is multiplied by: its first rows (entries of a vector) by ``rows``, its ``columns``; None: by
    nothing."""

    rows: Floats | None = None
    columns: Floats | None = None

    def apply(self, values: Floats, start: int = 0) -> Floats:
        """``values`` scaled: the rows from ``start`` on of a vector or matrix. Of a stack, whose rows no fold scales,
        any matrices."""
        result: Floats = values.copy()
        if self.rows is not None:
            rows = self.rows[start : start + len(values)]
            result[: len(rows)] *= rows if values.ndim == 1 else rows[:, None]
        if self.columns is not None:
            result *= self.columns
        return result

    def of_importance(self, importance: Floats) -> Floats:
        """The mean squares of what the columns multiply, which are divided."""
        return importance if self.columns is None else (importance / np.square(self.columns)).astype(np.float32)


def find(graph: Graph) -> tuple[list[Fold], list[str]]:
    """The folds of a graph in the order of its layers, and notices of places where one would be expected and is not
    allowed."""
    folds: list[Fold] = []
    refused: list[tuple[int | None, str, str]] = []
    shared = graph.shared_layers
    for layer, block in enumerate(graph.blocks):
        for step in block:
            for norm, mixers in _read(step):
                why = _why_not(norm, mixers)
                if why is None:
                    assert norm is not None
                    folds.append(_of_norm(norm, mixers, layer))
                else:
                    refused.append((layer, f"the input of {_called(mixers)}", why))
            for mixer in step.mixers():
                for fold, what, why in _inside(mixer, layer, layer in shared):
                    if fold is not None:
                        folds.append(fold)
                    else:
                        refused.append((layer, what, why))
    if isinstance(graph.head, Head) and graph.norm is not None:
        if graph.head.tied:
            refused.append((None, "the input of the output matrix", "it is the embedding, too"))
        elif graph.mtp:
            refused.append((None, "the input of the output matrix", "heads that predict further tokens read it, too"))
        elif graph.norm.weight:
            folds.append(Fold("norm", graph.norm.size, tuple(_gains(graph.norm, "")), ("output.weight",)))
    return folds, _notices(refused)


def scalings(folds: Iterable[tuple[Fold, Floats]]) -> dict[str, Scaling]:
    """What each tensor is multiplied by, where folds have these scales."""
    rows: dict[str, Floats] = {}
    columns: dict[str, Floats] = {}
    for fold, scales in folds:
        for each in fold.divided:
            end = each.start + fold.size
            known = rows.get(each.name, np.ones(0, np.float32))
            grown = np.ones(max(end, len(known)), np.float32)
            grown[: len(known)] = known
            grown[each.start : end] /= scales
            rows[each.name] = grown
        for name in fold.multiplied:
            columns[name] = columns.get(name, np.float32(1)) * fold.columns(scales)
    return {name: Scaling(rows.get(name), columns.get(name)) for name in {**rows, **columns}}


def scaled(tensors: Mapping[str, Floats], scaling: Mapping[str, Scaling]) -> dict[str, Floats]:
    """Whole tensors, by GGUF name, with the folds applied."""
    return {name: scaling[name].apply(value) if name in scaling else value for name, value in tensors.items()}


def _read(step: Any) -> Iterator[tuple[Norm | None, Sequence[Mixer]]]:
    """What normalizes what, in a step of a block."""
    if not isinstance(step, Branch):
        return
    if not isinstance(step.mixer, Sum):
        yield step.norm, (step.mixer,)
        return
    own = [path for path in step.mixer.paths if path.norm is not None]
    if len(own) < len(step.mixer.paths):  # those with a norm of their own normalize what this one gives once more
        yield step.norm, () if own else step.mixer.mixers
    for path in own:
        yield path.norm, (path.mixer,)


def _why_not(norm: Norm | None, mixers: Sequence[Mixer]) -> str | None:
    """Why scales cannot move out of a norm into what reads it; None: they can."""
    if norm is None:
        return "it is not normalized"
    if not norm.weight or norm.groups:
        return "its norm has no gain of its own for each channel"
    if not mixers:
        return "it is normalized once more"
    for mixer in mixers:
        if getattr(mixer, "indexer", None) is not None:
            return "an indexer reads it, too"
        if isinstance(mixer, Experts) and (mixer.input_norm is not None or mixer.router.norm is not None):
            return "it is normalized once more"
        if not _readers(mixer):
            return "not all that reads it is known to be matrices"
    return None


def _readers(mixer: Mixer) -> list[str]:
    roles = [tensor.role.removesuffix(".weight") for tensor in mixer.tensors() if tensor.used]
    latent = isinstance(mixer, Experts) and mixer.latent > 0
    return [f"{role}.weight" for role in roles if role in _READERS and not (latent and role in _OF_LATENTS)]


def _of_norm(norm: Norm, mixers: Sequence[Mixer], layer: int) -> Fold:
    prefix = f"blk.{layer}."
    readers = tuple(prefix + role for mixer in mixers for role in _readers(mixer))
    return Fold("norm", norm.size, tuple(_gains(norm, prefix)), readers)


def _gains(norm: Norm, prefix: str) -> Iterator[Rows]:
    yield Rows(prefix + norm.weight_role)
    if norm.bias:
        yield Rows(f"{prefix}{norm.role}.bias")


def _inside(mixer: Mixer, layer: int, is_shared: bool) -> Iterator[tuple[Fold | None, str, str]]:
    """The fold inside a mixer, or what it would be of and why there is none."""
    if isinstance(mixer, Attention):
        what = "the output matrix of attention"
        nonlinear = mixer.v_norm is not None or mixer.output_norm is not None or mixer.clamp
        if nonlinear or mixer.value_is_key or mixer.kv_layer is not None or is_shared:
            yield None, what, "values are normalized, limited, keys as well, or read by several layers"
        else:
            yield _of_values(mixer, layer), what, ""
    for dense in _dense(mixer):
        what = f"ffn_down{dense.suffix}"
        if not dense.gated or dense.activation == "swiglu_oai" or dense.clamp or dense.down_norm is not None:
            yield None, what, "the feed-forward is not linear in what its up matrix gives"
        else:
            yield _of_up(dense, layer), what, ""


def _dense(mixer: Mixer) -> Iterator[FeedForward]:
    if isinstance(mixer, FeedForward):
        yield mixer
    elif isinstance(mixer, Experts) and mixer.shared is not None:
        yield mixer.shared


def _of_values(mixer: Attention, layer: int) -> Fold:
    role, start = ("attn_qkv", mixer.q_size + mixer.kv_size) if mixer.fused else ("attn_v", 0)
    names = ["weight", "bias"] if mixer.bias else ["weight"]
    divided = tuple(Rows(f"blk.{layer}.{role}.{name}", start) for name in names)
    size, group = mixer.kv_heads * mixer.of_values, mixer.heads // mixer.kv_heads
    return Fold("value", size, divided, (f"blk.{layer}.attn_output.weight",), mixer.kv_heads, group)


def _of_up(dense: FeedForward, layer: int) -> Fold:
    start = dense.n_ff if dense.fused else 0
    names = ["weight", "bias"] if dense.bias else ["weight"]
    divided = tuple(Rows(f"blk.{layer}.ffn_up{dense.suffix}.{name}", start) for name in names)
    return Fold("up", dense.n_ff, divided, (f"blk.{layer}.ffn_down{dense.suffix}.weight",))


def _called(mixers: Sequence[Mixer]) -> str:
    return " and ".join(dict.fromkeys(type(mixer).__name__ for mixer in mixers)) or "a sum of mixers"


def _notices(refused: Iterable[tuple[int | None, str, str]]) -> list[str]:
    """One notice for each kind of refusal."""
    layers: dict[tuple[str, str], list[int | None]] = {}
    for layer, what, why in refused:
        layers.setdefault((what, why), []).append(layer)
    return [
        f"no scales are folded into {what}: {why}" + ("" if where == [None] else f" ({len(where)} layers)")
        for (what, why), where in layers.items()
    ]
