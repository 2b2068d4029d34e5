"""Quantized checkpoints of every scheme, made and undone here value by value, as the formulas say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike import checkpoint
from gguflike.checkpoint import float8
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from tests import stored, tiny
from tests.quantized_cases import (
    DOWN,
    E2M1,
    E4M3,
    SHAPES,
    UP,
    Case,
    bits_of,
    codes8,
    float4,
    fp8,
    gptq,
    groups,
    less,
    naive,
    packed,
    written,
)
from tests.stored import Stored


def awq(group: int) -> Case:
    rng = np.random.default_rng(3)
    tensors, weights = {}, {}
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def words(numbers: np.ndarray) -> np.ndarray:
        packed = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
        for word in range(packed.shape[1]):
            for place, column in enumerate(order):
                packed[:, word] |= numbers[:, 8 * word + column].astype(np.uint32) << np.uint32(4 * place)
        return packed

    for name, (rows, columns) in SHAPES.items():
        size = columns if group < 0 else group
        q, zeros = (rng.integers(0, 16, (count, rows)) for count in (columns, columns // size))
        scales = rng.uniform(0.01, 0.1, (columns // size, rows)).astype(np.float16)
        wide = np.empty((rows, columns), np.float32)
        for c in range(columns):
            wide[:, c] = (q[c] - zeros[c // size]).astype(np.float32) * scales[c // size].astype(np.float32)
        tensors |= {
            f"{name}.qweight": Stored("I32", words(q)),
            f"{name}.qzeros": Stored("I32", words(zeros)),
            f"{name}.scales": Stored("F16", scales),
        }
        weights[f"{name}.weight"] = wide
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Case(tensors, settings, weights, "from AWQ 4 bits, ")


def bnb4(kind: str, nested: bool) -> Case:
    rng = np.random.default_rng(7)
    tensors, weights = {}, {}
    table = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    inner = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
    for name, shape in SHAPES.items():
        flat = rng.integers(0, 16, shape[0] * shape[1], np.uint8)
        blocks = len(flat) // 64
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
        name = f"{name}.weight"
        if nested:
            codes = rng.integers(0, 256, blocks, np.uint8)
            outer = rng.uniform(0.1, 1, -(-blocks // 32)).astype(np.float32)
            state |= {"nested_blocksize": 32, "nested_dtype": "float32", "nested_offset": 0.25}
            absmax = np.array([inner[code] * outer[i // 32] for i, code in enumerate(codes)], np.float32) + np.float32(
                0.25
            )
            tensors |= {f"{name}.absmax": Stored("U8", codes), f"{name}.nested_absmax": Stored("F32", outer)}
            tensors[f"{name}.nested_quant_map"] = Stored("F32", inner)
        else:
            absmax = rng.uniform(0.1, 1, blocks).astype(np.float32)
            tensors[f"{name}.absmax"] = Stored("F32", absmax)
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        tensors |= {
            name: Stored("U8", (flat[::2] << 4 | flat[1::2]).reshape(-1, 1)),
            f"{name}.quant_map": Stored("F32", table),
            f"{name}.quant_state.bitsandbytes__{kind}": Stored("U8", text),
        }
        values = np.array([table[code] * absmax[i // 64] for i, code in enumerate(flat)], np.float32)
        weights[name] = values.reshape(shape)
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "_load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
    }
    return Case(tensors, settings, weights, f"from bitsandbytes {kind.upper()}")


def bnb8() -> Case:
    rng = np.random.default_rng(8)
    tensors, weights = {}, {}
    for name, (rows, columns) in SHAPES.items():
        q = rng.integers(-127, 128, (rows, columns), np.int8)
        scales = rng.uniform(0.1, 1, rows).astype(np.float32)
        tensors |= {f"{name}.weight": Stored("I8", q), f"{name}.SCB": Stored("F32", scales)}
        tensors[f"{name}.weight_format"] = Stored("U8", np.zeros((), np.uint8))
        weights[f"{name}.weight"] = q.astype(np.float32) * scales[:, None] * np.float32(1 / 127)
    return Case(tensors, {"quant_method": "bitsandbytes", "load_in_8bit": True}, weights, "from bitsandbytes 8 bits")


def mlx(bits: int, size: int, mode: str = "affine") -> Case:
    rng = np.random.default_rng(9)
    tensors, weights = {}, {}
    for name, (rows, columns) in SHAPES.items():
        q = rng.integers(0, 1 << bits, (rows, columns))
        q = codes8(rng, (rows, columns)) if mode == "mxfp8" else q
        shape = (rows, columns // size)
        words = Stored("U32", bits_of(q, bits))
        if mode == "affine":
            scales, biases = (tiny.exactly(rng.uniform(-1, 1, shape).astype(np.float32), "BF16") for _ in range(2))
            wide = q.reshape(*shape, size).astype(np.float32) * scales[..., None] + biases[..., None]
            tensors |= {
                f"{name}.scales": stored.floats(scales, "BF16"),
                f"{name}.biases": stored.floats(biases, "BF16"),
            }
        else:
            codes = rng.integers(100, 0x7E, shape, dtype=np.uint8)
            of_groups = E4M3[codes] if mode == "nvfp4" else np.ldexp(np.float32(1), codes.astype(int) - 127)
            table = E4M3 if mode == "mxfp8" else E2M1
            wide = table[q].reshape(*shape, size) * of_groups[..., None]
            tensors[f"{name}.scales"] = Stored("U8", codes)
        tensors[f"{name}.weight"] = words
        weights[f"{name}.weight"] = wide.reshape(rows, columns)
    settings = {"bits": bits, "group_size": size, **({} if mode == "affine" else {"mode": mode})}
    return Case(tensors, settings, weights, "from MLX, ")


def renamed(case: Case, ending: str, other: str, **settings: Any) -> Case:
    """A case whose tensors that end so end in another way."""
    tensors = {f"{n.removesuffix(ending)}{other}" if n.endswith(ending) else n: t for n, t in case.tensors.items()}
    return case._replace(tensors=tensors, settings={**case.settings, **settings})


def of_deepseek(dtype: str) -> Case:
    """Experts of 4-bit floats among matrices of 8 bits."""
    made = float4("MXFP4", "modelopt")
    tensors = {name.replace("weight_scale", "weight_scale_inv"): tensor for name, tensor in made.tensors.items()}
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            tensors[name] = Stored(dtype, tensor.bits.view(np.int8))
        elif name.endswith("_scale_inv"):
            tensors[name] = Stored("F8_E8M0", tensor.bits)
    return Case(tensors, {"quant_method": "fp8", "expert_dtype": "fp4"}, made.weights, "from FP8, MXFP4")


CASES: dict[str, Callable[[], Case]] = {
    "fp8 of AutoFP8": lambda: renamed(fp8(None, "tensor"), "_scale_inv", "_scale", activation_scheme="static"),
    "fp8 of FBGEMM": lambda: renamed(fp8(None, "row"), "_scale_inv", "_scale")._replace(
        settings={"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        said="from FBGEMM FP8, one scale for each",
    ),
    "fp8 with 4-bit floats": lambda: of_deepseek("I8"),
    "fp8 blocks": lambda: fp8((128, 128)),
    "fp8 small blocks": lambda: fp8((48, 40)),
    "fp8 rows": lambda: fp8(None, "row"),
    "fp8 row vector": lambda: fp8(None, "row vector"),
    "fp8 tensor": lambda: fp8(None, "tensor"),
    **{f"gptq {bits} bits": lambda bits=bits: gptq(bits, 32) for bits in (2, 3, 4, 8)},
    **{f"gptq {bits} bits of GPTQModel": lambda bits=bits: gptq(bits, 32, by_words=True) for bits in (2, 3, 4, 8)},
    "gptq one group": lambda: gptq(4, -1),
    "gptq in an order": lambda: gptq(4, 32, order=True),
    **{f"gptq of the second format, {bits} bits": lambda bits=bits: gptq(bits, 64, second=True) for bits in (3, 4)},
    "awq": lambda: awq(32),
    "awq one group": lambda: awq(-1),
    **{f"packed {bits} bits": lambda bits=bits: packed(bits, 32, False) for bits in (2, 3, 4, 5, 6, 7, 8)},
    **{f"packed {bits} bits with zeros": lambda bits=bits: packed(bits, 32, True) for bits in (3, 4, 8)},
    "packed 3 bits of old": lambda: packed(3, 32, True, padded=True),
    "packed rows": lambda: packed(4, None, True),
    "packed in an order": lambda: packed(4, 32, True, order=True),
    **{
        f"naive {s} {k}": lambda k=k, s=s: naive(k, s)
        for k in ("int", "float")
        for s in ("tensor", "channel", "block", "group")
    },
    "naive int with zeros": lambda: naive("int", "channel", True),
    **{
        f"{k} of {m}": lambda k=k, m=m: float4(k, m)
        for k in ("NVFP4", "MXFP4")
        for m in ("compressed-tensors", "modelopt")
    },
    **{f"bitsandbytes {k}{' nested' * n}": lambda k=k, n=n: bnb4(k, n) for k in ("nf4", "fp4") for n in (False, True)},
    "bitsandbytes 8 bits": bnb8,
    **{f"mlx {bits} bits": lambda bits=bits: mlx(bits, 32) for bits in (2, 3, 4, 5, 6, 8)},
    **{f"mlx groups of {size}": lambda size=size: mlx(4, size) for size in (64,)},
    "mlx mxfp4": lambda: mlx(4, 32, "mxfp4"),
    "mlx nvfp4": lambda: mlx(4, 16, "nvfp4"),
    "mlx mxfp8": lambda: mlx(8, 32, "mxfp8"),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_are_what_the_scheme_says(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    opened = checkpoint.open(written(tmp_path / "m", case))
    assert [notice for notice in opened.notices if notice.startswith(case.said)], opened.notices
    assert "quantization_config" not in opened.config
    plain = {*tiny.shapes(tiny.config(**stored.SIZES))}
    assert set(opened.tensors) == plain
    for weight, wanted in case.weights.items():
        tensor = opened.tensors[weight]
        assert tensor.shape == wanted.shape
        np.testing.assert_array_equal(tensor.read_f32(), wanted)
        pieces = [tensor.read_f32(start, min(start + 13, len(wanted))) for start in range(0, len(wanted), 13)]
        np.testing.assert_array_equal(np.concatenate(pieces), wanted)


@pytest.mark.parametrize("name", ["fp8 blocks", "gptq 4 bits", "bitsandbytes nf4 nested", "NVFP4 of modelopt"])
def test_a_quantized_checkpoint_becomes_a_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    plan = gguflike.convert(written(tmp_path / "m", case), tmp_path / "m.gguf", "F32")
    assert f"notice: {case.said}" in str(plan)
    assert "which lost precision before" in str(plan)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for weight, role in ((f"{UP}.weight", "ffn_up"), (f"{DOWN}.weight", "ffn_down")):
        np.testing.assert_array_equal(found[f"blk.0.{role}.weight"].data, case.weights[weight])


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_8_bit_floats_are_what_their_bits_say(kind: str) -> None:
    exponent_bits, bias = {"F8_E4M3": (4, 7), "F8_E5M2": (5, 15), "F8_E4M3FNUZ": (4, 8), "F8_E5M2FNUZ": (5, 16)}[kind]
    wanted = []
    for code in range(256):
        sign, fraction_bits = -1.0 if code & 128 else 1.0, 7 - exponent_bits
        exponent, fraction = (code & 127) >> fraction_bits, code & (1 << fraction_bits) - 1
        if kind.endswith("FNUZ"):
            special = float("nan") if code == 128 else None
        elif kind == "F8_E4M3":
            special = float("nan") if code & 127 == 127 else None
        else:
            special = None if exponent < 31 else float("nan") if fraction else sign * float("inf")
        scaled = fraction / (1 << fraction_bits)
        value = scaled * 2.0 ** (1 - bias) if exponent == 0 else (1 + scaled) * 2.0 ** (exponent - bias)
        wanted.append(sign * value if special is None else special)
    np.testing.assert_array_equal(float8.values(kind), np.array(wanted, np.float32))


def test_scales_of_8_bits_are_powers_of_two() -> None:
    table = float8.values("F8_E8M0")
    assert table[127] == 1
    assert table[254] == 2.0**127
    assert table[0] == np.float32(2.0**-127)
    assert np.isnan(table[255])


def test_settings_beside_the_checkpoint(tmp_path: Path) -> None:
    case = gptq(4, 32)
    folder = stored.folder(tmp_path / "m", case.tensors, None, tuple(case.weights))
    with pytest.raises(UnsupportedError, match=r"quantized by GPTQ: .*its settings are missing"):
        checkpoint.open(folder)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    opened = checkpoint.open(folder)
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), case.weights[f"{UP}.weight"])


@pytest.mark.parametrize("name", ["fp8 blocks", "fp8 tensor", "bitsandbytes nf4 nested"])
def test_weights_that_need_no_settings(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    opened = checkpoint.open(stored.folder(tmp_path / "m", case.tensors, None, tuple(case.weights)))
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), case.weights[f"{UP}.weight"])


def test_8_bit_floats_without_scales_are_weights(tmp_path: Path) -> None:
    codes = codes8(np.random.default_rng(0), SHAPES[UP])
    opened = checkpoint.open(stored.folder(tmp_path / "m", {f"{UP}.weight": Stored("F8_E4M3", codes)}))
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), E4M3[codes])
    assert opened.notices == ()


def test_settings_of_modelopt_in_a_file(tmp_path: Path) -> None:
    case = float4("NVFP4", "modelopt")
    folder = stored.folder(tmp_path / "m", case.tensors, None, tuple(case.weights))
    settings = {"producer": {"name": "modelopt", "version": "0.29"}, "quantization": {"quant_algo": "NVFP4"}}
    settings["quantization"] |= {"kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
    (folder / "hf_quant_config.json").write_text(json.dumps(settings))
    opened = checkpoint.open(folder)
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), case.weights[f"{UP}.weight"])


def test_groups_of_settings_for_some_modules(tmp_path: Path) -> None:
    """One names a module, one is for a class, one is of activations only."""
    four, eight = packed(4, 32, False), packed(8, 64, True)
    names = [name for name in eight.tensors if name.startswith(DOWN)]
    weights = {
        key: {**groups("group", bits, "int", size, sym)["group_0"]}
        for key, bits, size, sym in (("a", 4, 32, True), ("b", 8, 64, False))
    }
    weights["b"]["targets"] = ["re:.*down_proj$"]
    settings = {**weights, "c": {"targets": ["re:.*self_attn$"], "weights": None, "input_activations": {"num_bits": 8}}}
    case = four._replace(
        tensors={**four.tensors, **{name: eight.tensors[name] for name in names}},
        settings={**four.settings, "config_groups": settings},
    )
    opened = checkpoint.open(written(tmp_path / "m", case))
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), four.weights[f"{UP}.weight"])
    np.testing.assert_array_equal(opened.tensors[f"{DOWN}.weight"].read_f32(), eight.weights[f"{DOWN}.weight"])


def test_stacks_of_8_bit_floats(tmp_path: Path) -> None:
    """Experts as Transformers 5 saves them: three axes, and scales for blocks of the last two."""
    rng = np.random.default_rng(0)
    codes, name = codes8(rng, (3, 64, 96)), "model.layers.0.mlp.experts.gate_up_proj"
    scales = rng.uniform(0.01, 0.1, (3, 2, 3)).astype(np.float32)
    tensors = {name: Stored("F8_E4M3", codes), f"{name}_scale_inv": Stored("F32", scales)}
    opened = checkpoint.open(
        stored.folder(tmp_path / "m", tensors, {"quant_method": "fp8", "weight_block_size": [32, 32]})
    )
    wanted = E4M3[codes] * np.repeat(np.repeat(scales, 32, 1), 32, 2)
    np.testing.assert_array_equal(opened.tensors[name].read_f32(), wanted)
    np.testing.assert_array_equal(opened.tensors[name].read_f32(1, 3), wanted[1:])


def test_settings_of_mlx_for_one_layer(tmp_path: Path) -> None:
    case, other = mlx(4, 32), mlx(6, 64)
    names = [name for name in other.tensors if name.startswith(DOWN)]
    tensors = {**case.tensors, **{name: other.tensors[name] for name in names}}
    folder = stored.folder(tmp_path / "m", tensors, None, tuple(case.weights))
    config = json.loads((folder / "config.json").read_text())
    settings = {"bits": 4, "group_size": 32, DOWN: {"bits": 6, "group_size": 64}, "lm_head": False}
    (folder / "config.json").write_text(json.dumps({**config, "quantization": settings}))
    opened = checkpoint.open(folder)
    assert "quantization" not in opened.config
    np.testing.assert_array_equal(opened.tensors[f"{UP}.weight"].read_f32(), case.weights[f"{UP}.weight"])
    np.testing.assert_array_equal(opened.tensors[f"{DOWN}.weight"].read_f32(), other.weights[f"{DOWN}.weight"])


def test_experts_of_mlx_have_the_names_of_transformers() -> None:
    from gguflike.checkpoint.quantized import mlx as module
    from gguflike.checkpoint.safetensors import LazyTensor

    stack = LazyTensor("model.layers.3.mlp.switch_mlp.up_proj.weight", "F32", (2, 4, 8), "x", 0, 0)
    other = LazyTensor("model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight", "F32", (1, 4, 8), "x", 0, 0)
    made = module.unstacked({tensor.name: tensor for tensor in (stack, other)})
    assert {name: tensor.shape for name, tensor in made.items()} == {
        "model.layers.3.mlp.experts.0.up_proj.weight": (4, 8),
        "model.layers.3.mlp.experts.1.up_proj.weight": (4, 8),
        "model.layers.0.block_sparse_moe.experts.0.w2.weight": (4, 8),
    }


def test_stale_settings_of_weights_that_are_floats(tmp_path: Path) -> None:
    for index, settings in enumerate(({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "hqq"})):
        opened = checkpoint.open(stored.folder(tmp_path / str(index), {}, settings))
        assert opened.notices == ("quantization_config of config.json is left aside: the weights are not quantized",)
        assert "quantization_config" not in opened.config


def test_scales_of_the_cache_are_left_out(tmp_path: Path) -> None:
    scales = {f"model.layers.0.self_attn.{part}_scale": Stored("F32", np.ones((), np.float32)) for part in "kv"}
    opened = checkpoint.open(stored.folder(tmp_path / "m", scales))
    assert opened.notices == ("scales of a quantized KV cache are left out: 2 tensors",)
    assert not set(scales) & set(opened.tensors)


@pytest.mark.parametrize("method", ["hqq", "aqlm", "torchao", "exl2", "quanto", "auto-round", "something-new"])
def test_other_methods_are_refused_by_name(method: str, tmp_path: Path) -> None:
    tensors = {f"{UP}.weight": Stored("U8", np.zeros((128, 32), np.uint8))}
    folder = stored.folder(tmp_path / "m", tensors, {"quant_method": method})
    with pytest.raises(UnsupportedError, match=f"(?s)quantized by .*got '{method}'; convert the model") as error:
        checkpoint.open(folder)
    assert error.value.field == "quantization_config of config.json"


def changed(case: Case, **settings: Any) -> Case:
    return case._replace(settings={**case.settings, **settings})


def other(case: Case, suffix: str, make: Callable[[Stored], Stored]) -> Case:
    made = {name: make(tensor) if name.endswith(suffix) else tensor for name, tensor in case.tensors.items()}
    return case._replace(tensors=made)


def cut(tensor: Stored) -> Stored:
    return Stored(tensor.dtype, tensor.bits[..., :-1].copy())


def retyped(dtype: str) -> Callable[[Stored], Stored]:
    return lambda tensor: Stored(dtype, tensor.bits)


BAD: dict[str, tuple[Callable[[], Case], str]] = {
    "gptq without scales": (
        lambda: less(gptq(4, 32), ".scales"),
        "lacks a part; expected .*scales; got no such tensor",
    ),
    "gptq of other bits": (lambda: changed(gptq(4, 32), bits=8), "not what the settings say; expected 8 bits"),
    "gptq of other groups": (
        lambda: changed(gptq(4, 32), group_size=64),
        "expected 4 bits in groups of 64; got 4 bits in",
    ),
    "gptq of 5 bits": (lambda: changed(gptq(4, 32), bits=5), "expected one of 2, 3, 4, 8; got 5"),
    "gptq of no bits": (lambda: changed(gptq(4, 32), bits="4"), "not an integer"),
    "gptq for Marlin": (lambda: changed(gptq(4, 32), is_marlin_format=True), "in Marlin's arrangement"),
    "gptq of another format": (
        lambda: changed(gptq(4, 32), checkpoint_format="marlin"),
        "expected 'gptq' or 'gptq_v2'",
    ),
    "gptq with a setting": (lambda: changed(gptq(4, 32), rotated="yes"), "settings .* not known; got rotated: 'yes'"),
    "gptq of short zeros": (lambda: other(gptq(4, 32), ".qzeros", cut), "do not divide a weight|do not fit"),
    "gptq of floats": (
        lambda: other(gptq(4, 32), ".qweight", retyped("F32")),
        "has another dtype; expected I32 or U32",
    ),
    "awq of 8 bits": (lambda: changed(awq(32), bits=8), "expected one of 4; got 8"),
    "awq in gemv order": (lambda: changed(awq(32), version="gemv"), "expected 'gemm'; got 'gemv'"),
    "awq without zeros": (lambda: less(awq(32), ".qzeros"), "lacks a part"),
    "awq of other groups": (lambda: changed(awq(32), group_size=64), "wrong shape"),
    "fp8 without scale": (lambda: less(fp8((128, 128)), "up_proj.weight_scale_inv"), "8-bit floats has no scale"),
    "fp8 of lone scale": (lambda: less(fp8((128, 128)), "up_proj.weight"), "lacks a part"),
    "fp8 of other blocks": (lambda: other(fp8((48, 40)), "_scale_inv", cut), "scales do not fit"),
    "fp8 of odd block size": (lambda: changed(fp8((48, 40)), weight_block_size=[128]), "size of blocks is malformed"),
    "packed without shape": (lambda: less(packed(4, 32, False), ".weight_shape"), "lacks a part"),
    "packed of other bits": (
        lambda: changed(packed(4, 32, False), config_groups=groups("group", 8, "int", 32)),
        "not what the settings say",
    ),
    "packed without zeros": (lambda: less(packed(4, 32, True), "_zero_point"), "not what the settings say"),
    "packed of other groups": (
        lambda: changed(packed(4, 32, False), config_groups=groups("group", 4, "int", 64)),
        "scales do not fit",
    ),
    "packed and rotated": (
        lambda: changed(packed(4, 32, False), transform_config={"config_groups": {"R1": {"type": "hadamard"}}}),
        "rotated weights",
    ),
    "packed and sparse": (
        lambda: changed(packed(4, 32, False), sparsity_config={"format": "sparse-24-bitmask"}),
        "sparse weights",
    ),
    "packed in another format": (lambda: changed(packed(4, 32, False), format="marlin-24"), "expected 'dense' or"),
    "nvfp4 without global scale": (
        lambda: less(float4("NVFP4", "compressed-tensors"), "_global_scale"),
        "without a global",
    ),
    "nvfp4 without second scale": (lambda: less(float4("NVFP4", "modelopt"), "_scale_2"), "lacks a part"),
    "nvfp4 of short scales": (lambda: other(float4("NVFP4", "modelopt"), "weight_scale", cut), "wrong shape"),
    "modelopt of another kind": (
        lambda: changed(float4("NVFP4", "modelopt"), quant_algo="INT4_AWQ"),
        "expected 'fp8' or",
    ),
    "bitsandbytes without state": (lambda: less(bnb4("nf4", False), "__nf4"), "lacks what says how"),
    "bitsandbytes of bad state": (
        lambda: other(bnb4("nf4", False), "__nf4", lambda _: Stored("U8", np.frombuffer(b"{}", np.uint8))),
        "state of a quantized weight is malformed",
    ),
    "bitsandbytes of no JSON": (lambda: other(bnb4("nf4", False), "__nf4", cut), "not valid JSON"),
    "bitsandbytes of short scales": (lambda: other(bnb4("nf4", True), ".absmax", cut), "wrong shape"),
    "bitsandbytes for a GPU": (
        lambda: other(bnb8(), ".weight_format", lambda _: Stored("U8", np.array(2, np.uint8))),
        "arrangement of a GPU",
    ),
    "mlx of 7 bits": (lambda: changed(mlx(4, 32), bits=7), "expected one of 2, 3, 4, 5, 6, 8"),
    "mlx without biases": (lambda: less(mlx(4, 32), ".biases"), "lacks a part"),
    "mlx of other groups": (lambda: changed(mlx(4, 32), group_size=64), "wrong shape"),
    "mlx of a new mode": (lambda: changed(mlx(4, 32), mode="nf4"), "expected 'affine' or 'mxfp4'"),
    "settings without a method": (lambda: mlx(4, 32)._replace(settings={"a": 1}), "do not say by which method"),
    "settings of another method": (
        lambda: changed(mlx(4, 32), quant_method="gptq", bits=4),
        "no such tensors are there",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_an_error(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    with pytest.raises(GGUFLikeError, match=message):
        checkpoint.open(written(tmp_path / "m", make()))


def test_unknown_settings_can_be_accepted(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", changed(gptq(4, 32), brand_new=1))
    with pytest.raises(UnsupportedError, match="brand_new: 1; if they do not change"):
        gguflike.convert(folder, None, "F32", dry_run=True)
    gguflike.convert(folder, None, "F32", dry_run=True, ignore_config=["quantization_config"])


def test_groups_that_are_not_there(tmp_path: Path) -> None:
    case = gptq(4, 32, order=True)
    wrong = other(case, ".g_idx", lambda tensor: Stored("I32", tensor.bits + 1))
    opened = checkpoint.open(written(tmp_path / "m", wrong))
    with pytest.raises(CheckpointError, match="group of a column is not there"):
        opened.tensors[f"{UP}.weight"].read_f32()


def decoded(tensors: dict[str, Any], name: str) -> np.ndarray:
    """The values of a tensor of a file, times the number beside it, by the ``gguf`` package."""
    tensor = tensors[name]
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    beside = tensors.get(name.replace(".weight", ".scale"))
    return values if beside is None else values * beside.data.reshape(-1, *(1 for _ in values.shape[1:]))


@pytest.mark.parametrize("maker", ["compressed-tensors", "modelopt"])
@pytest.mark.parametrize("kind", ["NVFP4", "MXFP4"])
def test_4_bit_floats_are_kept_bit_for_bit(kind: str, maker: str, tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in tiny.shapes(tiny.config(**stored.SIZES)).items() if "_proj" in name}
    case = float4(kind, maker, {name.removesuffix(".weight"): shape for name, shape in shapes.items()})
    plan = gguflike.convert(written(tmp_path / "m", case), tmp_path / "kept.gguf", kind)
    assert f"kept bit for bit: 7 tensors of {kind}" in str(plan)
    assert f"{case.said}: 7 tensors, which lost precision before" in plan.notices
    gguflike.convert(tmp_path / "m", tmp_path / "f32.gguf", "F32")
    found, floats = (tiny.gguf_tensors(tmp_path / f"{name}.gguf") for name in ("kept", "f32"))
    for part, role in tiny.MATRICES.items():
        name = f"blk.0.{role}.weight"
        assert found[name].tensor_type.name == kind
        assert (f"blk.0.{role}.scale" in found) == (kind == "NVFP4")
        np.testing.assert_allclose(decoded(found, name), floats[name].data, rtol=1e-6)
        if role not in ("attn_q", "attn_k"):  # whose rows are in another order
            np.testing.assert_array_equal(floats[name].data, case.weights[f"model.layers.0.{part}.weight"])
    q8 = gguflike.convert(tmp_path / "m", None, "Q8_0", dry_run=True)
    assert f"encoded anew from tensors that are quantized already: 7 of {kind}" in q8.notices
    assert not any(tensor.name.endswith(".scale") for tensor in q8.tensors)


def test_experts_are_kept_with_a_number_for_each(tmp_path: Path) -> None:
    parts = {"w1": (128, 64), "w3": (128, 64), "w2": (64, 128)}
    experts = {
        f"model.layers.0.block_sparse_moe.experts.{e}.{p}": shape for e in range(3) for p, shape in parts.items()
    }
    case = float4("NVFP4", "modelopt", experts)
    gate = stored.floats(np.random.default_rng(0).standard_normal((3, 64)).astype("f4"))
    tensors = {**case.tensors, "model.layers.0.block_sparse_moe.gate.weight": gate}
    changes = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 3}
    without = tuple(name for name in tiny.shapes(tiny.config(**stored.SIZES)) if ".mlp." in name)
    folder = stored.folder(tmp_path / "m", tensors, case.settings, without, **changes)
    gguflike.convert(folder, tmp_path / "kept.gguf", "NVFP4")
    found = tiny.gguf_tensors(tmp_path / "kept.gguf")
    for part, role in (("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")):
        wanted = np.stack(
            [case.weights[f"model.layers.0.block_sparse_moe.experts.{e}.{part}.weight"] for e in range(3)]
        )
        assert found[f"blk.0.{role}.scale"].data.shape == (3,)
        np.testing.assert_allclose(decoded(found, f"blk.0.{role}.weight"), wanted, rtol=1e-6)


def test_scales_that_the_type_has_not(tmp_path: Path) -> None:
    case = float4("NVFP4", "modelopt")
    name = f"{UP}.weight_scale"
    wrong = case.tensors[name].bits.copy()
    wrong[3, 1] = 0x90
    folder = written(tmp_path / "m", case._replace(tensors={**case.tensors, name: Stored("F8_E4M3", wrong)}))
    with pytest.raises(CheckpointError, match=r"scale is negative or not a number; got code 144 at index \(3, 1\)"):
        gguflike.convert(folder, tmp_path / "m.gguf", "NVFP4")
    assert not (tmp_path / "m.gguf").exists()
