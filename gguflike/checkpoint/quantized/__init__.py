"""Checkpoints whose weights are quantized: read as the floats that they stand for, tensor by tensor.

One module for each scheme. Its ``read(pool, settings)`` takes the tensors that it knows from the pool, gives those that
they stand for by the names that Transformers has for floats, and says in words what they were. What it does not know is
an error: a tensor of another dtype or shape, a partner that is missing, a setting.

``METHODS`` and ``REFUSED`` below say which ``quant_method`` means which of them, and what is known and not read.

    awq           4-bit integers in words along the outputs
    gptq          integers of 2, 3, 4 or 8 bits in words along the inputs
    compressed    compressed-tensors: integers and floats, plain or packed
    bitsandbytes  codes of a table (NF4, FP4), rows of 8-bit integers
    bitnet        one of -1, 0 and 1, times a number for the matrix
    fp8           8-bit floats with scales for blocks or rows, MXFP8
    mxfp4         the stacks of gpt-oss
    modelopt      NVIDIA's FP8 and NVFP4
    mlx           integers with a scale and a bias, small floats

    pool          the tensors while a scheme takes those that it knows
    tensors       tensors that are computed of others when they are read
    float4        4-bit floats in blocks with a scale, which GGUF has types for
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.checkpoint import strictjson
from gguflike.checkpoint.quantized.float4 import Float4
from gguflike.checkpoint.quantized.pool import ACTIVATIONS, REMEDY, Pool, Settings
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError, counted

METHODS: Mapping[str, tuple[str, str]] = {
    "awq": ("AWQ", "awq:read"),
    "bitnet": ("BitNet", "bitnet:read"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes:read"),
    "compressed-tensors": ("compressed-tensors", "compressed:read"),
    "fbgemm_fp8": ("FBGEMM FP8", "fp8:read_fbgemm"),
    "fp8": ("FP8", "fp8:read"),
    "gptq": ("GPTQ", "gptq:read"),
    "mlx": ("MLX", "mlx:read"),
    "modelopt": ("ModelOpt", "modelopt:read"),
    "mxfp4": ("MXFP4", "mxfp4:read"),
    "mxfp8": ("MXFP8", "fp8:read"),
}
# Other names of methods.
_SAME: Mapping[str, str] = {
    "modelopt_fp4": "modelopt",
    "modelopt_fp8": "modelopt",
    "modelopt_mixed": "modelopt",
    "finegrained_fp8": "fp8",
    "compressed_tensors": "compressed-tensors",
    "gptq_v2": "gptq",
    "gptqmodel": "gptq",
}
# AutoRound stores what others do, too, and says so.
_PACKINGS: Mapping[str, str] = {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "awq"}

REFUSED: Mapping[str, str] = {
    "aqlm": "codebooks of AQLM",
    "auto-round": "AutoRound's own arrangement",
    "eetq": "EETQ",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "fouroversix": "Four Over Six",
    "fp_quant": "FP-Quant, which rotates weights",
    "gemma": "Gemma's quantized layers",
    "gguf": "GGUF; quantize the GGUF file itself",
    "higgs": "HIGGS, which rotates weights",
    "hqq": "HQQ",
    "marlin": "Marlin's arrangement for GPUs",
    "metal": "Transformers' quantization for Metal",
    "quanto": "Quanto",
    "quark": "AMD Quark",
    "quip": "QuIP#",
    "sinq": "SINQ",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
_SIDECARS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_KEYS = ("quantization_config", "compression_config", "quantization")
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
# Scales that are of use to other engines only, whether weights are quantized or not.
_KV_SCALES = re.compile(
    r".*att.*\.((k|v|q|kv|prob)_(output_)?(scale|zero_point)|[kv]_proj\.output_(scale|zero_point)|kv_cache_scaling_factor)"
)
_OF_ACTIVATIONS = re.compile(r".*\.(input_scale|input_global_scale|act_scale|input_amax)")


class Resolved(NamedTuple):
    """The tensors as floats, config.json without what was read of it, and what to tell the user."""

    tensors: dict[str, LazyTensor]
    config: dict[str, Any]
    notices: list[str]


class _Stated(NamedTuple):
    """Settings, where they were found, and the method that they name."""

    values: Mapping[str, Any]
    field: str
    method: str

    @property
    def rounds(self) -> bool:
        """Whether the model rounds weights that are stored as floats."""
        return self.method == "bitnet" and self.values.get("quantization_mode") == "online"


def _check_rows(config: Mapping[str, Any], stated: _Stated) -> None:
    """UnsupportedError where rows of queries, keys and values take turns in one matrix, as many of each as one of the
    publisher's devices reads (MiMo V2.5). How many devices that are, only numbers of scales tell, and not always."""
    if config.get("attention_projection_layout") == "fused_qkv":
        raise UnsupportedError(
            "queries, keys and values in one quantized matrix, whose rows are in the order of several devices",
            field=stated.field,
            expected="floats, where attention_projection_layout is fused_qkv",
            got=stated.method,
            remedy="convert a checkpoint of floats, or quantize the publisher's GGUF file",
        )


def resolved(
    tensors: Mapping[str, LazyTensor], config: Mapping[str, Any], folder: Path, ignored: Collection[str] = ()
) -> Resolved:
    """The tensors of a checkpoint as floats, by config.json, or by the file of settings beside it.

    ``ignored``: keys of config.json to accept unread; with ``quantization_config`` among them, unknown settings are.
    CheckpointError where parts are missing or do not fit each other, UnsupportedError for a method or setting that is
    not read.
    """
    stated = _stated(config, folder) or _told(tensors)
    pool = Pool(tensors)
    pool.drop_like(_KV_SCALES, "scales of a quantized KV cache")
    plain = {key: value for key, value in config.items() if key not in _KEYS or not isinstance(value, dict | None)}
    plain = {key: _without(value) if key in _NESTED else value for key, value in plain.items()}
    notices: list[str] = []
    if stated is not None and _all_floats(pool.left) and not stated.rounds:
        notices.append(f"{stated.field} is left aside: the weights are not quantized")
    elif stated is not None:
        _check_rows(config, stated)
        notices.append(_read(pool, stated, "quantization_config" not in ignored))
    pool.drop_like(_OF_ACTIVATIONS, ACTIVATIONS)
    made = {**pool.left, **pool.made}
    if any(".switch_mlp." in name for name in made):
        from gguflike.checkpoint.quantized import mlx

        made = mlx.unstacked(made)
    left_out = [f"{what} are left out: {counted(count, 'tensor')}" for what, count in pool.dropped.items()]
    return Resolved(made, plain, [*notices, *left_out])


def _read(pool: Pool, stated: _Stated, strict: bool) -> str:
    """Dequantize; the notice of it."""
    if not stated.method:
        raise CheckpointError(
            "settings do not say by which method weights are quantized",
            field=stated.field,
            expected="quant_method",
            got=", ".join(map(str, stated.values))[:120],
        )
    if stated.method not in METHODS:
        known = REFUSED.get(stated.method)
        raise UnsupportedError(
            f"the checkpoint is quantized by {known or 'a method that is not known'}",
            field=stated.field,
            expected="one of " + ", ".join(METHODS),
            got=repr(stated.method),
            remedy=REMEDY,
        )
    called, place = METHODS[stated.method]
    module, _, name = place.partition(":")
    settings = Settings(stated.values, stated.field, strict)
    read = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    try:
        label: str = read(pool, settings)
        if stated.method != "mlx":
            settings.check()
    except (CheckpointError, UnsupportedError) as error:
        error.what = f"the checkpoint is quantized by {called}: {error.what}"
        raise
    if not pool.made and stated.method != "bitnet":
        raise CheckpointError(
            f"settings say that weights are quantized ({stated.method}), but no such tensors are there",
            field=stated.field,
            expected="the tensors of that method, or weights that are all floating-point",
        )
    kept = stated.method == "mxfp4" or all(isinstance(tensor, Float4) for tensor in pool.made.values())
    made = counted(pool.count, "tensor") + ("" if kept else " dequantized")
    return f"from {label}: {made}, which lost precision before"


def _stated(config: Mapping[str, Any], folder: Path) -> _Stated | None:
    """The settings of config.json or of its text model; of a file beside it; None where there are none."""
    places = [("config.json", config), *((f"{name} in config.json", config.get(name)) for name in _NESTED)]
    for where, values in places:
        found = [(key, values[key]) for key in _KEYS if values.get(key)] if isinstance(values, Mapping) else []
        for key, settings in found:
            field = f"{key} of {where}"
            if not isinstance(settings, Mapping):
                raise CheckpointError("settings are no object of JSON", field=field, got=repr(settings)[:120])
            return _named(settings, field, "mlx" if key == "quantization" else None, folder)
    for name in _SIDECARS:
        if (folder / name).is_file():
            return _named(strictjson.load(folder / name), name, None, folder)
    return None


def _told(tensors: Mapping[str, LazyTensor]) -> _Stated | None:
    """Settings of weights that need none, told by the names of their parts."""
    for ending, method in (("_scale_inv", "fp8"), (".quant_state.bitsandbytes__nf4", "bitsandbytes")):
        if any(name.endswith(ending) for name in tensors):
            return _Stated({}, f"names of tensors ({ending.lstrip('._')})", method)
    return None


def _named(values: Mapping[str, Any], field: str, key: str | None, folder: Path) -> _Stated:
    """Settings with their method, which is empty where nothing tells it."""
    sidecar = folder / "hf_quant_config.json"
    if "quantization" in values and isinstance(values["quantization"], Mapping):  # ModelOpt's file
        values = {**values["quantization"], "quant_method": "modelopt"}
    elif values.get("quant_method") == "modelopt" and not values.get("quant_algo") and sidecar.is_file():
        inner = strictjson.load(sidecar).get("quantization")
        values = {**values, **(inner if isinstance(inner, Mapping) else {})}
    method = values.get("quant_method")
    if not isinstance(method, str):
        method = key or _guessed(values)
    method = method.lower().rsplit("/", 1)[-1]
    packing = values.get("packing_format", values.get("backend"))
    if method in ("auto-round", "autoround") and isinstance(packing, str):
        method = _PACKINGS.get(packing, method)
        values = {name: value for name, value in values.items() if name != "packing_format"}
    return _Stated(values, field, _SAME.get(method, method))


def _guessed(values: Mapping[str, Any]) -> str:
    """The method of settings that do not name it, by the keys that only its settings have; nothing where none tells."""
    if "config_groups" in values:
        return "compressed-tensors"
    if "quant_algo" in values:
        return "modelopt"
    if values.get("load_in_4bit") or values.get("load_in_8bit"):
        return "bitsandbytes"
    if "w_bit" in values or "zero_point" in values:
        return "awq"
    if "desc_act" in values or "sym" in values or "damp_percent" in values:
        return "gptq"
    if "group_size" in values and "bits" in values:
        return "mlx"
    return ""


def _without(nested: Any) -> Any:
    return {key: value for key, value in nested.items() if key not in _KEYS} if isinstance(nested, dict) else nested


def _all_floats(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether no tensor looks quantized: matrices are floats of 16 bits or more, and nothing is in 8-bit floats."""
    return all(
        tensor.dtype in _FLOATS or (len(tensor.shape) < 2 and not tensor.dtype.startswith("F8"))
        for tensor in tensors.values()
    )
