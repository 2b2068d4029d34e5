"""NVIDIA's ModelOpt: FP8 and NVFP4, whose settings are in config.json or in hf_quant_config.json.

    weight (8-bit floats), weight_scale                    ``weight * scale``: one scale, one a row, or blocks
    weight (bytes), weight_scale (E4M3), weight_scale_2    NVFP4: ``e2m1 * scale * scale_2``
    weight (8-bit floats), weight_scale (bytes)            MXFP8: ``weight * 2**(scale - 127)`` of 32 values

(modelopt, torch/export; llama.cpp, conversion/base.py.)
"""

from __future__ import annotations

from gguflike.checkpoint.quantized.float4 import MX, NV, float4
from gguflike.checkpoint.quantized.fp8 import FLOATS8, described, refuse_unscaled
from gguflike.checkpoint.quantized.pool import ACTIVATIONS, REMEDY, Pool, Settings
from gguflike.checkpoint.quantized.tensors import Scaled, computed, scales_of
from gguflike.errors import UnsupportedError

ALGORITHMS = (
    *(
        "fp8",
        "fp8_per_channel_per_token",
        "fp8_pb_wo",
        "fp8_pb_real",
        "nvfp4",
        "w4a16_nvfp4",
        "w4a8_nvfp4_fp8",
        "mxfp8",
    ),
    *("mxfp4", "mixed_precision"),
)
_SCALES = frozenset({"F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8"})


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` modelopt; say what they were."""
    settings.choice("quant_algo", among=ALGORITHMS)
    settings.get("config_groups", "quantized_layers")  # what a module is, its tensors say
    settings.inert(
        "kv_cache_quant_algo kv_cache_scheme group_size exclude_modules ignore producer has_zero_point format"
        " pre_quant_scale quantization_status"
    )
    kinds: set[str] = set()
    rotated = pool.modules(".pre_quant_scale")
    if rotated:
        raise UnsupportedError(
            "activations are multiplied before a quantized weight (AWQ or SmoothQuant of ModelOpt)",
            tensor=f"{rotated[0]}.pre_quant_scale",
            remedy=REMEDY,
        )
    for module in pool.modules(".weight_scale"):
        kinds.add(_weight(pool, f"{module}.weight"))
    pool.drop((".input_scale",), ACTIVATIONS)
    refuse_unscaled(pool)
    return ", ".join(["ModelOpt", *sorted(kinds)])


def _weight(pool: Pool, name: str) -> str:
    scales = pool.take(f"{name}_scale", name, _SCALES)
    weight = pool.take(name, scales.name, FLOATS8 | {"U8"})
    if weight.dtype == "U8":
        kind = NV if scales.dtype == NV.scales else MX
        factor = pool.take(f"{name}_scale_2", weight.name, {"F32", "F16", "BF16"}) if kind is NV else None
        pool.give(float4(name, weight, scales, kind, factor))
        return kind.name
    exponents = scales.dtype == "U8"
    made = scales_of(weight, scales, (1, 32) if exponents else (128, 128), exponents=exponents)
    pool.give(computed(Scaled, name, weight.shape, weight, values=weight, scales=made))
    return f"FP8, {described(made.shape, made.sizes)}"
