"""Weights of 8-bit floats with scales: DeepSeek's blocks and what others made of them, and FBGEMM's rows.

``weight * weight_scale_inv`` (Transformers, integrations/finegrained_fp8.py), where one scale is for a block of
``weight_block_size`` values, for a row or for the whole matrix; ``weight * weight_scale`` of FBGEMM
(integrations/fbgemm_fp8.py) and AutoFP8. Scales of activations are left out: what multiplies floats needs none.
"""

from __future__ import annotations

from collections.abc import Sequence

from gguflike.checkpoint.quantized.float4 import MX, float4
from gguflike.checkpoint.quantized.pool import ACTIVATIONS, Pool, Settings
from gguflike.checkpoint.quantized.tensors import Scaled, computed, scales_of
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError

FLOATS8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_SCALES = frozenset({"F32", "F16", "BF16", "F8_E8M0", "U8"})


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` fp8; say what they were."""
    block = _block(settings)
    settings.choice("expert_dtype", among=("fp8", "fp4"), default="fp8")
    settings.inert(
        "activation_scheme fmt scale_fmt dequantize modules_to_not_convert modules_to_convert ignored_layers"
    )
    shapes = {_weight(pool, name, "_scale_inv", block) for name in pool.modules("_scale_inv")}
    shapes |= _scaled(pool, block)
    pool.drop((".activation_scale", "_activation_scale", ".input_scale"), ACTIVATIONS)
    refuse_unscaled(pool)
    return ", ".join(["FP8", *sorted(shapes)])


def read_fbgemm(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` fbgemm_fp8; say what they were."""
    settings.inert("activation_scale_ub modules_to_not_convert")
    shapes = _scaled(pool, None)
    pool.drop(("input_scale_ub",), ACTIVATIONS)
    refuse_unscaled(pool)
    return ", ".join(["FBGEMM FP8", *sorted(shapes)])


def _scaled(pool: Pool, block: Sequence[int] | None) -> set[str]:
    """Dequantize what has a scale of the other name; say what scales are for."""
    dtypes = {name: pool.left[name].dtype for name in pool.modules("_scale") if name in pool.left}
    return {_weight(pool, name, "_scale", block) for name, dtype in dtypes.items() if dtype in FLOATS8}


def _weight(pool: Pool, name: str, ending: str, block: Sequence[int] | None) -> str:
    scales = pool.take(f"{name}{ending}", name, _SCALES)
    weight = pool.take(name, scales.name, FLOATS8 | {"I8", "F4"})
    if weight.dtype not in FLOATS8:  # two 4-bit floats in a byte, as DeepSeek and others store experts
        pool.give(float4(name, weight, scales, MX))
        return MX.name
    made = scales_of(weight, scales, block, exponents=scales.dtype == "U8", even=True)
    pool.give(computed(Scaled, name, weight.shape, weight, values=weight, scales=made))
    return described(made.shape, made.sizes)


def _block(settings: Settings) -> tuple[int, ...]:
    value = settings.get("weight_block_size")
    if value is None:
        return 128, 128
    if not isinstance(value, list) or len(value) != 2 or not all(type(size) is int and size > 0 for size in value):
        raise CheckpointError(
            "size of blocks is malformed",
            field=f"{settings.field}: weight_block_size",
            expected="rows and columns, such as [128, 128]",
            got=repr(value)[:80],
        )
    return tuple(value)


def described(counts: Sequence[int], sizes: Sequence[int]) -> str:
    """What one scale is for, in words."""
    if all(count == 1 for count in counts[-2:]):
        return "one scale for each matrix"
    if counts[-1] == 1 and sizes[-2:-1] == (1,):
        return "one scale for each row"
    return "blocks of " + "x".join(map(str, sizes[-2:]))


def refuse_unscaled(pool: Pool) -> None:
    """CheckpointError where a matrix of 8-bit floats is left over: its scale is missing, or of another name."""
    bare = [tensor for tensor in pool.left.values() if tensor.dtype in FLOATS8 and _is_matrix(tensor)]
    if bare:
        raise CheckpointError(
            "weight of 8-bit floats has no scale",
            path=bare[0].path,
            tensor=bare[0].name,
            expected="a tensor of scales beside it",
            got=", ".join(name for name in pool.left if name.startswith(bare[0].name + "_")) or "none",
        )


def _is_matrix(tensor: LazyTensor) -> bool:
    return len(tensor.shape) > 1
