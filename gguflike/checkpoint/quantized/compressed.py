"""compressed-tensors, as llm-compressor saves: integers and floats, plain or packed, by rows, groups or blocks.

A module is read by the tensors that it has, and its shapes must be those of its group of settings:

    weight, weight_scale(, weight_zero_point)            ``(weight - zero) * scale``: naive, int- and float-quantized
    weight_packed, weight_scale, weight_shape(, ...)     the same of integers of 2 to 8 bits in words: pack-quantized
    weight_packed, weight_scale(, weight_global_scale)   4-bit floats: nvfp4- and mxfp4-pack-quantized

(compressed_tensors, compressors/; quantization/lifecycle/forward.py.) A global scale divides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint.quantized.float4 import MX, NV, float4
from gguflike.checkpoint.quantized.fp8 import FLOATS8, described, refuse_unscaled
from gguflike.checkpoint.quantized.pool import ACTIVATIONS, REMEDY, Pool, Settings, expect_shape
from gguflike.checkpoint.quantized.tensors import (
    Computed,
    Floats,
    Scaled,
    Scales,
    as_floats,
    computed,
    groups_of_columns,
    scales_of,
    unpacked,
)
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError

FORMATS = (
    *("dense", "naive-quantized", "int-quantized", "float-quantized", "pack-quantized", "mixed-precision"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"),
)
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group", "attn_head")
_SCALES = frozenset({"F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8"})
_PACKED = "weight_packed"


@dataclass(frozen=True)
class Group:
    """What the settings say of the weights of some modules; ``targets`` are names, patterns (re:...) or classes."""

    targets: tuple[str, ...]
    bits: int
    floating: bool
    symmetric: bool
    strategy: str
    size: int | None
    block: tuple[int, ...] | None

    def names(self, module: str) -> bool:
        """Whether the group is for a module by its name, not by its class."""
        patterns = (target.removeprefix("re:") for target in self.targets if target.startswith("re:"))
        return module in self.targets or any(re.match(pattern, module) for pattern in patterns)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Rows and columns that have one scale, where it is for a block or a part of a row."""
        return self.block if self.block else (1, self.size) if self.size else None

    def __str__(self) -> str:
        kind = "float" if self.floating else "int"
        return f"{kind} {self.bits} bits, " + (
            f"groups of {self.size}" if self.size else f"one scale for each {self.strategy}"
        )


@dataclass(frozen=True)
class Packed(Computed):
    """A matrix (rows, columns) of integers in words along the columns, less half of their range: ``places`` of a word
    each, or 0 where numbers follow each other across words. Zeros are packed so along the rows."""

    words: LazyTensor
    scales: Scales
    bits: int
    places: int
    zeros: LazyTensor | None = None
    groups_of: LazyTensor | None = None

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.rows if stop is None else stop
        columns = self.shape[1]
        values = _numbers(self.words.read(start, stop), self.bits, self.places)[:, :columns].astype(np.float32)
        zeros = self._zeros(start, stop)
        if self.groups_of is None:
            return (values - self._wide(zeros)) * self.scales.spread(start, stop, self.shape)
        groups = groups_of_columns(self.groups_of, self.scales.shape[1])
        scales = as_floats(self.scales.stored, start, stop)[:, groups]
        return (values - (zeros if zeros.shape[1] == 1 else zeros[:, groups])) * scales

    def _zeros(self, start: int, stop: int) -> Floats:
        """The zero of each row, or of each of its groups; half of the range where there is none."""
        if self.zeros is None:
            return np.full((1, 1), 1 << self.bits - 1, np.float32)
        packed = self.zeros.read().T  # a word for several rows, so that a piece of them is hard to find: it is small
        zeros: Floats = _numbers(packed, self.bits, self.places)[:, start:stop].T.astype(np.float32)
        return zeros

    def _wide(self, zeros: Floats) -> Floats:
        if zeros.shape[1] == 1:
            return zeros
        return np.repeat(zeros, self.scales.sizes[1], axis=1)[:, : self.shape[1]]


def _numbers(words: npt.NDArray[Any], bits: int, places: int) -> npt.NDArray[np.uint8]:
    if not places:
        short = -words.shape[1] * 32 % (8 * bits) // 8  # bytes that make whole runs of eight numbers
        stored = np.ascontiguousarray(words).view(np.uint8)
        return unpacked(np.pad(stored, ((0, 0), (0, short))), bits)
    shifts = np.arange(0, bits * places, bits, dtype=np.uint32)
    parts = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    numbers: npt.NDArray[np.uint8] = parts.astype(np.uint8).reshape(len(words), -1)
    return numbers


def read(pool: Pool, settings: Settings) -> str:
    """Dequantize the weights of ``quant_method`` compressed-tensors; say what they were."""
    settings.choice("format", among=FORMATS, default="dense")
    settings.choice(
        "quantization_status", among=("compressed", "frozen", "calibration", "initialized"), default="compressed"
    )
    _refuse_sparse(settings)
    settings.inert("ignore kv_cache_scheme global_compression_ratio version run_compressed dequantize")
    settings.inert("use_optimized_inference moe_sparsity_config")
    groups = _groups(settings)
    kinds: set[str] = set()
    for module in pool.modules(f".{_PACKED}"):
        kinds.add(_packed(pool, module, _of(groups, module)))
    for module in pool.modules(".weight_scale"):
        kinds.add(_plain(pool, f"{module}.weight", _of(groups, module)))
    pool.drop(
        (".input_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".output_zero_point"), ACTIVATIONS
    )
    refuse_unscaled(pool)
    return ", ".join(["compressed-tensors", *sorted(kinds)])


def _refuse_sparse(settings: Settings) -> None:
    for name, what in (("sparsity_config", "sparse weights"), ("transform_config", "rotated weights")):
        value = settings.get(name, default={})
        off = not value or (
            isinstance(value, dict) and (value.get("format") == "dense" or value == {"config_groups": {}})
        )
        if not off:
            raise UnsupportedError(
                f"{what} of compressed-tensors",
                field=f"{settings.field}: {name}",
                got=repr(value)[:120],
                remedy=REMEDY,
            )


def _groups(settings: Settings) -> list[Group]:
    """The groups of settings that say something of weights, and not of activations alone."""
    stated, field = settings.get("config_groups", default={}), f"{settings.field}: config_groups"
    if not isinstance(stated, dict) or not all(isinstance(values, dict) for values in stated.values()):
        raise CheckpointError("groups of settings are malformed", field=field, got=repr(stated)[:120])
    return [_group(values, field) for values in stated.values() if values.get("weights")]


def _group(values: Mapping[str, Any], field: str) -> Group:
    weights = values["weights"]
    if not isinstance(weights, dict):
        raise CheckpointError("settings of weights are malformed", field=field, got=repr(weights)[:120])
    of = Settings(weights, field)
    size, block = of.get("group_size"), of.get("block_structure")
    targets = values.get("targets") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CheckpointError("targets are no list of names", field=field, got=repr(targets)[:120])
    if isinstance(block, str):
        block = [int(each) for each in block.split("x") if each.isdecimal()]
    sized = (type(size) is int or size is None) and (block is None or (isinstance(block, list) and len(block) == 2))
    if not sized or not all(type(each) is int and each > 0 for each in block or ()):
        raise CheckpointError("size of blocks is malformed", field=field, got=repr(block or size)[:80])
    return Group(
        targets=tuple(targets),
        bits=of.integer("num_bits", among=range(2, 9), default=8),
        floating=of.choice("type", among=("int", "float"), default="int") == "float",
        symmetric=of.choice("symmetric", among=(True, False), default=True),
        strategy=of.choice("strategy", among=STRATEGIES, default="group" if size else "tensor"),
        size=size if size is not None and size > 0 else None,
        block=tuple(block) if block else None,
    )


def _of(groups: list[Group], module: str) -> Group | None:
    """The group of settings for a module: the first that names it, or one for its class; None where there is none."""
    by_name = [group for group in groups if group.names(module)]
    by_class = [group for group in groups if any(target.isidentifier() for target in group.targets)]
    linear = [group for group in by_class if "Linear" in group.targets]
    return next(iter([*by_name, *linear, *by_class]), None)


def _needed(group: Group | None, tensor: LazyTensor) -> Group:
    if group is None:
        raise CheckpointError(
            "no settings are for a quantized weight",
            path=tensor.path,
            tensor=tensor.name,
            expected="one of config_groups whose targets name it",
        )
    return group


def _plain(pool: Pool, name: str, group: Group | None) -> str:
    """A weight in a dtype of its own."""
    scales = pool.take(f"{name}_scale", name, _SCALES)
    weight = pool.take(name, scales.name, FLOATS8 | {"I8"})
    zeros = pool.maybe(f"{name}_zero_point", {"I8", "I32", "F32", "F16", "BF16"})
    block = None if group is None else group.shape
    exponents = scales.dtype == "U8"
    made = scales_of(weight, scales, block, exponents=exponents)
    offset = None if zeros is None else scales_of(weight, zeros, block)
    if offset is not None and weight.dtype != "I8":
        raise UnsupportedError(
            "only integers have zero points here",
            path=weight.path,
            tensor=name,
            expected="I8",
            got=weight.dtype,
            remedy="start from the checkpoint before it was quantized",
        )
    pool.give(computed(Scaled, name, weight.shape, weight, values=weight, scales=made, zeros=offset))
    return f"{'int' if weight.dtype == 'I8' else 'float'} 8 bits, {described(made.shape, made.sizes)}"


def _packed(pool: Pool, module: str, group: Group | None) -> str:
    name = f"{module}.weight"
    packed = pool.take(f"{name}_packed", name, {"I32", "U8"})
    scales = pool.take(f"{name}_scale", packed.name, _SCALES)
    if packed.dtype == "U8":
        factor = pool.maybe(f"{name}_global_scale", {"F32", "F16", "BF16"})
        kind = NV if scales.dtype == NV.scales else MX
        known = _needed(group, packed)
        if (known.bits, known.floating, known.size) != (4, True, kind.group) or (kind is NV) != (factor is not None):
            raise CheckpointError(
                "parts of a quantized weight are not what the settings say",
                path=packed.path,
                tensor=packed.name,
                expected=str(known),
                got=f"{kind.name} with{'' if factor else 'out'} a global scale",
            )
        pool.give(float4(name, packed, scales, kind, factor, inverse=True))
        return kind.name
    return _integers(pool, name, packed, scales, _needed(group, packed))


def _integers(pool: Pool, name: str, packed: LazyTensor, scales: LazyTensor, group: Group) -> str:
    stored_shape = pool.take(f"{name}_shape", packed.name, {"I64", "I32"})
    zeros = pool.maybe(f"{name}_zero_point", {"I32"})
    groups_of = pool.maybe(f"{name}_g_idx", {"I32", "I64"})
    expect_shape(stored_shape, (2,))
    rows, columns = (int(size) for size in stored_shape.read())
    places = 32 // group.bits
    dense, padded = -(-columns * group.bits // 32), -(-columns // places)
    if (
        packed.shape not in ((rows, dense), (rows, padded))
        or columns < 1
        or group.floating
        or (zeros is None) != group.symmetric
    ):
        raise CheckpointError(
            "parts of a quantized weight are not what the settings say",
            path=packed.path,
            tensor=packed.name,
            expected=f"{group}, with{'out' if group.symmetric else ''} zeros: shape {(rows, dense)}",
            got=f"shape {packed.shape}, with{'' if zeros else 'out'} zeros",
        )
    straddling = packed.shape[1] == dense and 32 % group.bits > 0
    of_rows = scales_of(packed, scales, group.shape, shape=(rows, columns))
    if zeros is not None:
        expect_shape(zeros, (-(-rows * group.bits // 32) if straddling else -(-rows // places), of_rows.shape[1]))
    if groups_of is not None:
        expect_shape(groups_of, (columns,))
    fields = {"words": packed, "scales": of_rows, "bits": group.bits, "places": 0 if straddling else places}
    pool.give(computed(Packed, name, (rows, columns), packed, **fields, zeros=zeros, groups_of=groups_of))
    return f"int {group.bits} bits, {described(of_rows.shape, of_rows.sizes)}"
