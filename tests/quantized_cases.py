"""Checkpoints of every scheme of quantization, made and undone value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests import stored, tiny
from tests.stored import Stored

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"

SHAPES = {UP: (128, 64), DOWN: (64, 128)}

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Case(NamedTuple):
    """Tensors as they are stored, their settings, and the weights that they stand for."""

    tensors: dict[str, Stored]
    settings: dict[str, Any]
    weights: dict[str, np.ndarray]
    said: str


def e4m3(code: int) -> float:
    """The value of an 8-bit float, by its definition."""
    sign, exponent, fraction = -1 if code & 128 else 1, code >> 3 & 15, code & 7
    if exponent == 15 and fraction == 7:
        return float("nan")
    return sign * (fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)


def codes8(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Codes of finite E4M3 values."""
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.where(codes & 127 == 127, np.uint8(1), codes)


def bits_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Words of 32 bits in which the numbers of the last axis follow each other, lowest bits first."""
    made = []
    for row in numbers.reshape(-1, numbers.shape[-1]):
        joined = sum(int(number) << bits * place for place, number in enumerate(row))
        words = -(-bits * len(row) // 32)
        made.append([joined >> 32 * word & 0xFFFFFFFF for word in range(words)])
    return np.array(made, np.uint32).reshape(*numbers.shape[:-1], -1)


def fp8(block: tuple[int, int] | None, per: str = "block") -> Case:
    rng = np.random.default_rng(1)
    tensors, weights = {}, {}
    for name, (rows, columns) in SHAPES.items():
        codes = codes8(rng, (rows, columns))
        if block:
            shape = (-(-rows // block[0]), -(-columns // block[1]))
        else:
            shape = {"row": (rows, 1), "tensor": (), "row vector": (rows,)}[per]
        scales = rng.uniform(0.01, 0.1, shape).astype(np.float32)
        wide = np.empty((rows, columns), np.float32)
        for r in range(rows):
            for c in range(columns):
                at = (r // block[0], c // block[1]) if block else {"row": (r, 0), "tensor": (), "row vector": (r,)}[per]
                wide[r, c] = E4M3[codes[r, c]] * scales[at]
        tensors |= {f"{name}.weight": Stored("F8_E4M3", codes), f"{name}.weight_scale_inv": Stored("F32", scales)}
        tensors[f"{name}.input_scale"] = Stored("F32", np.ones((), np.float32))
        weights[f"{name}.weight"] = wide
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block or []) or None}
    return Case(
        tensors,
        settings,
        weights,
        "from FP8, one scale" if block in (None, (128, 128)) else f"from FP8, blocks of {block[0]}x{block[1]}",
    )


def gptq(bits: int, group: int, second: bool = False, order: bool = False, by_words: bool = False) -> Case:
    rng = np.random.default_rng(2)
    tensors, weights = {}, {}
    for name, (rows, columns) in SHAPES.items():
        size = columns if group < 0 else group
        count = columns // size
        q = rng.integers(0, 1 << bits, (rows, columns))
        zeros = rng.integers(1, 1 << bits, (rows, count))
        scales = rng.uniform(0.01, 0.1, (rows, count)).astype(np.float16)
        of = np.arange(columns) // size
        of = rng.permutation(of) if order else of
        wide = np.empty((rows, columns), np.float32)
        for c in range(columns):
            wide[:, c] = (q[:, c] - zeros[:, of[c]]).astype(np.float32) * scales[:, of[c]].astype(np.float32)
        kept = bits_of((zeros if second or by_words else zeros - 1).T.copy(), bits)
        if by_words:
            ones = (0x24924924, 0x92492492, 0x49249249) if bits == 3 else (sum(1 << at for at in range(0, 32, bits)),)
            kept = kept - np.array([ones[i % len(ones)] for i in range(kept.shape[1])], np.uint32)
        tensors |= {
            f"{name}.qweight": Stored("I32", bits_of(q, bits).T.copy()),
            f"{name}.qzeros": Stored("I32", kept),
            f"{name}.scales": Stored("F16", scales.T.copy()),
        }
        if order or group < 0:
            tensors[f"{name}.g_idx"] = Stored("I32", of.astype(np.int32))
        weights[f"{name}.weight"] = wide
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": False}
    settings |= {"checkpoint_format": "gptq_v2"} if second else {}
    settings |= {"meta": {"quantizer": ["gptqmodel:2.0.0"], "damp_percent": 0.1}} if by_words else {}
    return Case(tensors, settings, weights, f"from GPTQ {bits} bits, ")


def groups(
    strategy: str, bits: int, kind: str, size: int | None, symmetric: bool = True, **further: Any
) -> dict[str, Any]:
    """Settings of compressed-tensors for all linear layers."""
    weights = {
        "num_bits": bits,
        "type": kind,
        "strategy": strategy,
        "group_size": size,
        "symmetric": symmetric,
        "dynamic": False,
        "observer": "minmax",
        "actorder": None,
        **further,
    }
    return {
        "group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    }


def packed(bits: int, size: int | None, zeroed: bool, padded: bool = False, order: bool = False) -> Case:
    rng = np.random.default_rng(4)
    tensors, weights = {}, {}
    half = 1 << bits - 1

    def words(numbers: np.ndarray) -> np.ndarray:
        each = 32 // bits
        if not padded:
            return bits_of(numbers, bits)
        wide = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % each))).reshape(len(numbers), -1, each)
        return sum((wide[..., place].astype(np.uint32) << np.uint32(bits * place)) for place in range(each))

    for name, (rows, columns) in SHAPES.items():
        count = columns // size if size else 1
        q = rng.integers(-half, half, (rows, columns))
        zeros = rng.integers(-half, half, (rows, count)) if zeroed else np.zeros((rows, count), int)
        scales = rng.uniform(0.01, 0.1, (rows, count)).astype(np.float32)
        scales = tiny.exactly(scales, "BF16")
        of = np.arange(columns) * count // columns
        of = rng.permutation(of) if order else of
        wide = np.empty((rows, columns), np.float32)
        for c in range(columns):
            wide[:, c] = (q[:, c] - zeros[:, of[c]]).astype(np.float32) * scales[:, of[c]]
        tensors |= {
            f"{name}.weight_packed": Stored("I32", words(q + half)),
            f"{name}.weight_scale": stored.floats(scales, "BF16"),
            f"{name}.weight_shape": Stored("I64", np.array([rows, columns], np.int64)),
        }
        if zeroed:
            tensors[f"{name}.weight_zero_point"] = Stored("I32", words((zeros + half).T.copy()).T.copy())
        if order:
            tensors[f"{name}.weight_g_idx"] = Stored("I32", of.astype(np.int32))
        weights[f"{name}.weight"] = wide
    strategy = "group" if size else "channel"
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": groups(strategy, bits, "int", size, not zeroed),
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }
    return Case(tensors, settings, weights, f"from compressed-tensors, int {bits} bits, ")


def naive(kind: str, strategy: str, zeroed: bool = False) -> Case:
    rng = np.random.default_rng(5)
    tensors, weights = {}, {}
    for name, (rows, columns) in SHAPES.items():
        block = {"tensor": (rows, columns), "channel": (1, columns), "block": (48, 32), "group": (1, 32)}[strategy]
        shape = (-(-rows // block[0]), -(-columns // block[1]))
        codes = codes8(rng, (rows, columns)) if kind == "float" else rng.integers(-128, 128, (rows, columns), np.int8)
        scales = rng.uniform(0.01, 0.1, shape).astype(np.float32)
        zeros = rng.integers(-100, 100, shape, np.int8)
        wide = np.empty((rows, columns), np.float32)
        for r in range(rows):
            for c in range(columns):
                at = r // block[0], c // block[1]
                value = E4M3[codes[r, c]] if kind == "float" else np.float32(codes[r, c])
                wide[r, c] = (value - np.float32(zeros[at] if zeroed else 0)) * scales[at]
        tensors[f"{name}.weight"] = Stored("F8_E4M3" if kind == "float" else "I8", codes)
        stored_scales = scales.reshape(1) if strategy == "tensor" else scales
        tensors[f"{name}.weight_scale"] = Stored("F32", stored_scales)
        if zeroed:
            tensors[f"{name}.weight_zero_point"] = Stored("I8", zeros)
        weights[f"{name}.weight"] = wide
    further = {"block_structure": [48, 32]} if strategy == "block" else {}
    size = 32 if strategy == "group" else None
    settings = {
        "quant_method": "compressed-tensors",
        "format": f"{kind}-quantized",
        "config_groups": groups(strategy, 8, kind, size, not zeroed, **further),
        "kv_cache_scheme": {"num_bits": 8},
    }
    tensors["model.layers.0.self_attn.k_scale"] = Stored("F32", np.ones(1, np.float32))
    return Case(tensors, settings, weights, f"from compressed-tensors, {kind} 8 bits, ")


def float4(kind: str, maker: str, shapes: dict[str, tuple[int, int]] = SHAPES) -> Case:
    """4-bit floats of compressed-tensors, whose global scale divides, and of ModelOpt, whose second one multiplies."""
    rng = np.random.default_rng(6)
    tensors, weights = {}, {}
    size = 16 if kind == "NVFP4" else 32
    for name, (rows, columns) in shapes.items():
        q = rng.integers(0, 16, (rows, columns), np.uint8)
        if kind == "NVFP4":
            scales = rng.integers(1, 0x7E, (rows, columns // size), dtype=np.uint8)
            of_groups, dtype = E4M3[scales], "F8_E4M3"
        else:
            scales = rng.integers(120, 130, (rows, columns // size), dtype=np.uint8)
            of_groups, dtype = np.ldexp(np.float32(1), scales.astype(int) - 127), "U8"
        whole = np.float32(rng.uniform(100, 1000))
        wide = E2M1[q].reshape(rows, -1, size) * of_groups[..., None]
        name = f"{name}.weight"
        codes = Stored("U8", q[:, ::2] | q[:, 1::2] << 4)
        scale = Stored(dtype, scales)
        if maker == "modelopt":
            tensors |= {name: codes, f"{name}_scale": scale}
            second = np.float32(1) / whole
            if kind == "NVFP4":
                tensors[f"{name}_scale_2"] = Stored("F32", np.array(second))
                wide = wide * second
            tensors[f"{name.removesuffix('.weight')}.input_scale"] = Stored("F32", np.float32(1).reshape(()))
        else:
            tensors |= {f"{name}_packed": codes, f"{name}_scale": scale}
            if kind == "NVFP4":
                tensors[f"{name}_global_scale"] = Stored("F32", whole.reshape(1))
                wide = wide * (np.float32(1) / whole)
        weights[name] = wide.reshape(rows, columns)
    if maker == "modelopt":
        settings: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": kind, "ignore": ["lm_head"]}
        return Case(tensors, settings, weights, f"from ModelOpt, {kind}")
    strategy = "tensor_group" if kind == "NVFP4" else "group"
    settings = {
        "quant_method": "compressed-tensors",
        "format": f"{kind.lower()}-pack-quantized",
        "config_groups": groups(strategy, 4, "float", size),
    }
    return Case(tensors, settings, weights, f"from compressed-tensors, {kind}")


def written(path: Path, case: Case, **changes: Any) -> Path:
    return stored.folder(path, case.tensors, case.settings, tuple(case.weights), **changes)


def less(case: Case, suffix: str) -> Case:
    return case._replace(tensors={name: t for name, t in case.tensors.items() if not name.endswith(suffix)})
