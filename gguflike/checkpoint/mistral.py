"""Checkpoints in Mistral's and Meta's own format: params.json and consolidated files, read as Transformers has them.

Names of tensors and of settings become those of Transformers' classes, so that no family knows of this format. Rows of
queries and keys are in another order: Transformers turns value j of a head together with j + half, here neighbours are
turned together (transformers, models/mistral/convert_mistral_weights_to_hf.py, models/llama/...). Meta cuts large
models into consolidated.00.pth and so on, each with a share of the rows or columns of every matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint import files, strictjson
from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.recognize import HF_FILES
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError, counted

PARAMS = "params.json"
_SAFETENSORS = re.compile(r"consolidated([-.].*)?\.safetensors")
_PICKLES = re.compile(r"consolidated\.(\d+)\.(pth|pt)")

# Parts of names, and Transformers' for them; what is turned by neighbours, and along which axis Meta cuts it.
_TOP = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.gate": "block_sparse_moe.gate",
    "gate": "block_sparse_moe.gate",
}
_TURNED = ("attention.wq", "attention.wk")
_BY_COLUMNS = ("attention.wo", "feed_forward.w2")
_LATENT = ("attention.wkv_b", "attention.wkv_a_with_mqa")
_NAME = re.compile(r"(?:layers\.(?P<layer>\d+)\.)?(?P<part>.+)\.(?P<suffix>weight|bias|qscale_weight|qscale_act)")
_EXPERT = re.compile(r"(?:feed_forward\.)?experts\.(\d+)\.(w[123])")
_SUFFIXES = {"weight": "weight", "bias": "bias", "qscale_weight": "weight_scale_inv", "qscale_act": "input_scale"}
# What of models that also see is not of the text model.
_LEFT_OUT = {
    r"vision_encoder\..*": "the vision tower",
    r"(vision_language_adapter|patch_merger|pre_mm_projector_norm)\..*": "the projector of images",
}


class Original(NamedTuple):
    """What config.json would say, the tensors by Transformers' names, their files, and what to tell the user."""

    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    files: tuple[Path, ...]
    notices: list[str]


@dataclass(frozen=True)
class HalfTurned(LazyTensor):
    """Rows of ``stored`` in another order: of each ``head`` rows, those of even places first."""

    stored: LazyTensor
    head: int

    def extents(self, start: int, stop: int) -> list[Extent]:
        return self.stored.extents(*self._heads(start, stop))

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        stop = self.rows if stop is None else stop
        first, last = self._heads(start, stop)
        rows = self.stored.read(first, last)
        halves = rows.reshape(-1, self.head // 2, 2, *rows.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(halves.reshape(rows.shape)[start - first : stop - first])

    def _heads(self, start: int, stop: int) -> tuple[int, int]:
        return start // self.head * self.head, -(-stop // self.head) * self.head


@dataclass(frozen=True)
class Joined(LazyTensor):
    """Parts one behind the other along an axis, 0 or 1."""

    parts: tuple[LazyTensor, ...]
    axis: int

    def extents(self, start: int, stop: int) -> list[Extent]:
        return [each for part, low, high in self._shares(start, stop) for each in part.extents(low, high)]

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        stop = self.rows if stop is None else stop
        shares = [part.read(low, high) for part, low, high in self._shares(start, stop)]
        return np.concatenate(shares, self.axis) if shares else self.parts[0].read(0, 0)

    def _shares(self, start: int, stop: int) -> list[tuple[LazyTensor, int, int]]:
        if self.axis:
            return [(part, start, stop) for part in self.parts]
        shares, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.rows)
            if low < high:
                shares.append((part, low, high))
            first += part.rows
        return shares


def weight_files(folder: Path) -> list[Path]:
    """The consolidated files of a folder, in order; those in safetensors, where there are any."""
    present = files.inside(folder)
    safe = [path for path in present if _SAFETENSORS.fullmatch(path.name)]
    return safe or [path for path in present if _PICKLES.fullmatch(path.name)]


def read(folder: Path, shards: Sequence[Mapping[str, LazyTensor]], ignored: Collection[str] = ()) -> Original:
    """A folder whose files hold ``shards``, in the order of `weight_files`.

    ``ignored``: keys of params.json to accept unread. CheckpointError where parts are missing or do not fit each other,
    UnsupportedError for keys and tensors that are not known.
    """
    params = strictjson.load(folder / PARAMS)
    paths = weight_files(folder)
    tensors, notices = _without_towers(_joined(shards, paths))
    _refuse_latent(params, tensors, folder)
    config, assumed = _config(params, tensors, folder, ignored)
    head = config["head_dim"]
    made: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        new, turned = _renamed(name, tensor)
        if turned and tensor.rows % head == 0 and tensor.shape:
            place = (tensor.path, tensor.offset, tensor.file_bytes)
            tensor = HalfTurned(new, tensor.dtype, tensor.shape, *place, tensor, head)
        made[new] = tensor
    return Original(config, made, tuple(paths), [*notices, *assumed])


def _without_towers(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], list[str]]:
    """The tensors of the text model, and notices of the others."""
    counts: dict[str, int] = {}
    kept = {}
    for name, tensor in tensors.items():
        what = next((what for pattern, what in _LEFT_OUT.items() if re.fullmatch(pattern, name)), None)
        if what is not None:
            counts[what] = counts.get(what, 0) + 1
        elif name != "rope.freqs":  # computed of rope_theta
            kept[name] = tensor
    return kept, [f"{what} is left out: {counted(count, 'tensor')}" for what, count in counts.items()]


def _refuse_latent(params: Mapping[str, Any], tensors: Mapping[str, LazyTensor], folder: Path) -> None:
    if "kv_lora_rank" in params or any(f".{part}." in name for name in tensors for part in _LATENT):
        raise UnsupportedError(
            "latent attention in Mistral's own format",
            path=folder,
            remedy=HF_FILES,
        )


def _renamed(name: str, tensor: LazyTensor) -> tuple[str, bool]:
    """Transformers' name, and whether rows are of heads that turn. UnsupportedError for a name that is not known."""
    match = _NAME.fullmatch(name)
    if match is not None:
        part, suffix = match["part"], _SUFFIXES[match["suffix"]]
        if match["layer"] is None and part in _TOP:
            return f"{_TOP[part]}.{suffix}", False
        before = f"model.layers.{match['layer']}."
        if match["layer"] is not None and part in _LAYER:
            return f"{before}{_LAYER[part]}.{suffix}", part in _TURNED and suffix in ("weight", "bias")
        expert = _EXPERT.fullmatch(part)
        if match["layer"] is not None and expert:
            return f"{before}block_sparse_moe.experts.{expert[1]}.{expert[2]}.{suffix}", False
    raise UnsupportedError(
        "tensor that models in Mistral's or Meta's own format are not known to have",
        path=tensor.path,
        tensor=name[:200],
        remedy=HF_FILES,
    )


def _joined(shards: Sequence[Mapping[str, LazyTensor]], paths: Sequence[Path]) -> dict[str, LazyTensor]:
    """The tensors of all files: each is in one of them (safetensors), or has a share in every one (Meta's .pth)."""
    if len(shards) == 1 or not _PICKLES.fullmatch(paths[0].name):
        return {name: tensor for shard in shards for name, tensor in shard.items()}
    numbers = [int(match[1]) for path in paths if (match := _PICKLES.fullmatch(path.name))]
    if numbers != list(range(len(paths))) or any(shard.keys() != shards[0].keys() for shard in shards):
        raise CheckpointError(
            "files do not belong together",
            path=paths[0].parent,
            expected="consolidated.00.pth and all that follow, each with a share of every tensor",
            got=", ".join(path.name for path in paths),
            remedy="download the missing ones",
        )
    width = shards[0]["norm.weight"].rows if "norm.weight" in shards[0] else 0
    return {name: _whole(name, [shard[name] for shard in shards], width) for name in shards[0]}


def _whole(name: str, parts: list[LazyTensor], width: int) -> LazyTensor:
    first = parts[0]
    if len(first.shape) < 2:  # every file has it
        return first
    by_columns = any(f".{part}." in name for part in _BY_COLUMNS) or (
        name.startswith("tok_embeddings.") and first.shape[1] * len(parts) == width
    )
    axis = int(by_columns)
    if any(part.dtype != first.dtype or part.shape[1 - axis] != first.shape[1 - axis] for part in parts):
        raise CheckpointError(
            "shares of a tensor do not fit each other",
            path=first.path,
            tensor=name,
            expected=f"one dtype, and shapes that differ in axis {axis} only",
            got=", ".join(f"{part.dtype} {part.shape}" for part in parts[:4]),
            remedy="get all consolidated files of the same model again",
        )
    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return Joined(name, first.dtype, tuple(shape), first.path, first.offset, first.file_bytes, tuple(parts), axis)


_COUNTS = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
_IDLE = frozenset({"multiple_of", "ffn_dim_multiplier", "max_batch_size", "vision_encoder", "multimodal", "activation"})


def _config(
    params: Mapping[str, Any], tensors: Mapping[str, LazyTensor], folder: Path, ignored: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """config.json of Transformers' class for these settings, and notices of what was assumed."""
    path = folder / PARAMS
    rest = {name: value for name, value in params.items() if value is not None and name not in _IDLE}

    def integer(name: str, default: int | None = None) -> int:
        value = rest.pop(name, default)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{name} is no count", path=path, field=name, got=repr(value)[:80])
        return value

    config: dict[str, Any] = {theirs: integer(ours) for ours, theirs in _COUNTS.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]
    config["num_key_value_heads"] = integer("n_kv_heads", heads)
    config["head_dim"] = integer("head_dim", max(width // heads, 1))
    config["rms_norm_eps"] = rest.pop("norm_eps", 1e-5)
    config["hidden_act"] = params.get("activation", "silu")
    config["rope_theta"] = float(rest.pop("rope_theta", 10000.0))
    config["tie_word_embeddings"] = bool(rest.pop("tied_embeddings", "output.weight" not in tensors))
    rest.pop("vocab_size", None)  # -1 in Meta's; the embedding says it
    config["vocab_size"] = _rows(tensors, "tok_embeddings.weight", folder)
    hidden = rest.pop("hidden_dim", None)
    config["intermediate_size"] = (
        hidden if type(hidden) is int else _rows(tensors, "layers.0.feed_forward.w1.weight", folder)
    )
    is_meta = "multiple_of" in params or "use_scaled_rope" in params
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} if is_meta else _of_mistral(rest, path)
    if rest.pop("use_scaled_rope", False):
        config["rope_scaling"] = _scaled_rope(width)
    notices = _context(config, rest, params)
    quantization = rest.pop("quantization", None)
    if quantization is not None:
        if not isinstance(quantization, dict) or quantization.get("qformat_weight") != "fp8_e4m3":
            raise UnsupportedError(
                "quantization", path=path, expected="qformat_weight fp8_e4m3", got=repr(quantization)[:120]
            )
        config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static"}
    unknown = {name: value for name, value in rest.items() if name not in ignored and value not in (False, {}, [])}
    if unknown:
        raise UnsupportedError(
            "keys that models in this format are not known to have",
            path=path,
            got=", ".join(f"{name}: {value!r}"[:80] for name, value in unknown.items()),
            remedy=f"if they do not change what the model computes, add `ignore_config={list(unknown)}`",
        )
    return config, notices


def _rows(tensors: Mapping[str, LazyTensor], name: str, folder: Path) -> int:
    if name not in tensors:
        raise CheckpointError("tensor is missing", path=folder, tensor=name, remedy="the checkpoint is incomplete")
    return tensors[name].rows


def _of_mistral(rest: dict[str, Any], path: Path) -> dict[str, Any]:
    """What differs between Mistral's classes."""
    window, moe, yarn, grows = (rest.pop(name, None) for name in ("sliding_window", "moe", "yarn", "llama_4_scaling"))
    if window is not None and type(window) is not int:
        raise UnsupportedError(
            "windows that differ by layer", path=path, field="sliding_window", got=repr(window)[:120]
        )
    made: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    if moe is not None:
        if not isinstance(moe, dict) or moe.keys() != {"num_experts", "num_experts_per_tok"}:
            raise UnsupportedError(
                "experts of another kind than Mixtral's", path=path, field="moe", got=repr(moe)[:120]
            )
        made = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": window}
        made |= {"num_local_experts": moe["num_experts"], "num_experts_per_tok": moe["num_experts_per_tok"]}
    if yarn is not None:
        made["rope_scaling"] = _yarn(yarn, path)
    if grows is not None:
        if not isinstance(grows, dict) or "beta" not in grows or "rope_scaling" not in made:
            raise UnsupportedError("scaling of queries", path=path, field="llama_4_scaling", got=repr(grows)[:120])
        scaling = {**made.pop("rope_scaling"), "llama_4_scaling_beta": grows["beta"]}
        if scaling.pop("attention_factor", None) is not None:
            scaling |= {"mscale": 1.0, "mscale_all_dim": 1.0}
        made = {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "rope_scaling": scaling}
    return made


def _yarn(yarn: Any, path: Path) -> dict[str, Any]:
    """YaRN; cosines and sines are multiplied by its magnitude only where ``apply_scale``."""
    wanted = {"factor", "original_max_position_embeddings", "alpha", "beta"}
    if not isinstance(yarn, dict) or not wanted <= yarn.keys() <= wanted | {"apply_scale"}:
        raise CheckpointError(
            "yarn is malformed", path=path, field="yarn", expected=", ".join(wanted), got=repr(yarn)[:120]
        )
    made = {
        "rope_type": "yarn",
        "factor": float(yarn["factor"]),
        "original_max_position_embeddings": yarn["original_max_position_embeddings"],
        "beta_fast": float(yarn["beta"]),
        "beta_slow": float(yarn["alpha"]),
    }
    return made if yarn.get("apply_scale") else {**made, "attention_factor": 1.0}


def _scaled_rope(width: int) -> dict[str, Any]:
    """Llama 3.1's frequencies; the models of 1 and 3 billion weights (3.2) stretch them further. The file says neither
    (transformers, models/llama/convert_llama_weights_to_hf.py)."""
    return {
        "rope_type": "llama3",
        "factor": 32.0 if width in (2048, 3072) else 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _context(config: dict[str, Any], rest: dict[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Set the context length, which few files say."""
    stated = [rest.pop(name, None) for name in ("max_position_embeddings", "max_seq_len")]
    known = next((value for value in stated if type(value) is int and value > 0), None)
    if known is not None:
        config["max_position_embeddings"] = known
        return []
    if config["model_type"] == "llama":
        large = config["vocab_size"] >= 128000
        assumed = (
            131072
            if params.get("use_scaled_rope")
            else 8192
            if large
            else 4096
            if params.get("norm_eps") == 1e-5
            else 2048
        )
    else:
        assumed = 131072 if config["vocab_size"] >= 131072 else 32768
    config["max_position_embeddings"] = assumed
    return [f"{PARAMS} does not say how long the context is: {assumed} tokens are assumed"]
