"""MLX: integers of 2 to 8 bits with a scale and a bias for each group of columns, or 4- and 8-bit floats.

``weight = q * scales + biases``, where the numbers follow each other in the bits of the 32-bit words of ``weight``
(mlx, ops.cpp, affine_dequantize); the modes mxfp4, nvfp4 and mxfp8 have no biases, and bytes for scales.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguflike.checkpoint.quantized.float4 import MX, NV, float4
from gguflike.checkpoint.quantized.pool import Pool, Settings, exactly, expect_shape
from gguflike.checkpoint.quantized.tensors import (
    Computed,
    Floats,
    Scaled,
    Scales,
    computed,
    of_stack,
    scales_of,
    unpacked,
)
from gguflike.checkpoint.safetensors import LazyTensor

BITS = (2, 3, 4, 5, 6, 8)
MODES = ("affine", "mxfp4", "nvfp4", "mxfp8")
_FLOATS = frozenset({"F16", "BF16", "F32"})
_PARTS = {"mxfp4": MX, "nvfp4": NV}


@dataclass(frozen=True)
class Affine(Computed):
    """A tensor whose rows are ``q * scales + biases``."""

    words: LazyTensor
    bits: int
    scales: Scales
    biases: Scales

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.rows if stop is None else stop
        values = unpacked(self.words.read(start, stop), self.bits).astype(np.float32)
        values *= self.scales.spread(start, stop, self.shape)
        values += self.biases.spread(start, stop, self.shape)
        return values


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights that MLX quantized; say what they were."""
    own = {name: value for name, value in settings.values.items() if not isinstance(value, dict | bool)}
    plain = Settings(own, settings.field, settings.strict)
    kinds: set[str] = set()
    for module in pool.modules(".scales"):
        special = settings.values.get(module)
        kinds.add(_weight(pool, module, _merged(plain, special, module)))
    plain.get("group_size", "bits", "mode")
    plain.inert("quant_method linear_class quantization_mode")
    plain.check()
    return ", ".join(["MLX", *sorted(kinds)])


def _merged(plain: Settings, special: Any, module: str) -> Settings:
    if not isinstance(special, dict):
        return plain
    return Settings({**plain.values, **special}, f"{plain.field}: {module}")


def _weight(pool: Pool, module: str, settings: Settings) -> str:
    name = f"{module}.weight"
    mode = settings.choice("mode", among=MODES, default="affine")
    scales = pool.take(f"{module}.scales", name, None if mode == "affine" else {"U8"})
    words = pool.take(name, scales.name, {"U32"})
    if mode in _PARTS:
        pool.give(float4(name, words, scales, _PARTS[mode]))
        return _PARTS[mode].name
    bits = 8 if mode == "mxfp8" else settings.integer("bits", among=BITS, default=4)
    group = 32 if mode == "mxfp8" else settings.integer("group_size", among=(16, 32, 64, 128), default=64)
    columns = exactly(32 * words.shape[-1], bits, words, "bits")
    shape = (*words.shape[:-1], columns)
    expect_shape(scales, (*shape[:-1], exactly(columns, group, words, "groups")))
    if mode == "mxfp8":
        codes = LazyTensor(words.name, "F8_E4M3", shape, words.path, words.offset, words.file_bytes)
        made = scales_of(codes, scales, (1, 32), exponents=True)
        pool.give(computed(Scaled, name, shape, words, values=codes, scales=made))
        return "MXFP8"
    biases = pool.take(f"{module}.biases", name, _FLOATS)
    expect_shape(biases, scales.shape)
    block = (1, group)
    of_scales, of_biases = (scales_of(words, part, block, shape=shape) for part in (scales, biases))
    pool.give(computed(Affine, name, shape, words, words=words, bits=bits, scales=of_scales, biases=of_biases))
    return f"{bits} bits in groups of {group}"


def unstacked(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors with experts by the names that Transformers has for each, which MLX stacks as ``switch_mlp``."""
    made: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        match = _SWITCH.fullmatch(name)
        if match is None:
            made[name] = tensor
            continue
        before, part, suffix = match.groups()
        part = _MIXTRAL[part] if before.endswith("block_sparse_moe") else part
        for index in range(tensor.rows):
            one = f"{before}.experts.{index}.{part}.{suffix}"
            made[one] = of_stack(one, tensor, index)
    return made


_SWITCH = re.compile(r"(.*)\.switch_mlp\.(gate_proj|up_proj|down_proj)\.(weight|bias)")
_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
