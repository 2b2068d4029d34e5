"""Quantized checkpoints and PyTorch's files as the libraries make them that people use, and as llama.cpp reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import checkpoint
from gguflike.checkpoint import pickled
from tests import quantized_cases, stored, tiny
from tests.interop.families.converter import Converter
from tests.quantized_cases import SHAPES, Case
from tests.stored import Stored

torch = pytest.importorskip("torch")

DTYPES = {
    torch.float32: ("F32", np.float32),
    torch.float16: ("F16", np.float16),
    torch.bfloat16: ("BF16", np.uint16),
    torch.uint8: ("U8", np.uint8),
    torch.int8: ("I8", np.int8),
    torch.int32: ("I32", np.int32),
    torch.int64: ("I64", np.int64),
    torch.float8_e4m3fn: ("F8_E4M3", np.uint8),
    torch.float8_e8m0fnu: ("F8_E8M0", np.uint8),
}


def of_torch(tensor: torch.Tensor) -> Stored:
    """A tensor of torch as a file has it."""
    dtype, kind = DTYPES[tensor.dtype]
    plain = tensor.detach().contiguous()
    bits = plain.numpy() if dtype in ("F32", "F16", "U8", "I8", "I32", "I64") else plain.view(_view(kind)).numpy()
    return Stored(dtype, bits.view(kind))


def _view(kind: type) -> torch.dtype:
    return torch.uint8 if kind is np.uint8 else torch.int16


def assert_reads(path: Path, case: Case, rtol: float = 0.0) -> None:
    """Our values are those of the library that made the checkpoint."""
    opened = checkpoint.open(quantized_cases.written(path, case))
    assert any(notice.startswith(case.said) for notice in opened.notices), opened.notices
    for name, wanted in case.weights.items():
        np.testing.assert_allclose(opened.tensors[name].read_f32(), wanted, rtol=rtol, atol=0, err_msg=name)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_in_4_bits(kind: str, nested: bool, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    tensors, wanted = {}, {}
    for name, values in weights().items():
        codes, state = functional.quantize_4bit(values, quant_type=kind, compress_statistics=nested, blocksize=64)
        tensors[f"{name}.weight"] = of_torch(codes)
        tensors |= {f"{name}.weight.{key}": of_torch(value) for key, value in state.as_dict(packed=True).items()}
        wanted[f"{name}.weight"] = functional.dequantize_4bit(codes, state).float().numpy()
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    assert_reads(tmp_path / "m", Case(tensors, settings, wanted, f"from bitsandbytes {kind.upper()}"), rtol=1e-6)


def test_bitsandbytes_in_8_bits(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    tensors, wanted = {}, {}
    for name, values in weights().items():
        codes, scales, _ = functional.int8_vectorwise_quant(values.half())
        tensors |= {f"{name}.weight": of_torch(codes), f"{name}.SCB": of_torch(scales.float())}
        wanted[f"{name}.weight"] = functional.int8_vectorwise_dequant(codes, scales).float().numpy()
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert_reads(tmp_path / "m", Case(tensors, settings, wanted, "from bitsandbytes 8 bits"), rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "bits", "group"),
    [
        *(("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64)),
        *(("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)),
    ],
)
def test_mlx(mode: str, bits: int, group: int, tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    tensors, wanted = {}, {}
    for name, values in weights().items():
        how = {"group_size": group, "bits": bits, "mode": mode}
        parts = mx.quantize(mx.array(values.numpy()), **how)
        for part, key in zip(parts, ("weight", "scales", "biases"), strict=False):
            bits_of = np.array(part)
            dtype = {"uint32": "U32", "uint8": "U8", "float32": "F32"}[bits_of.dtype.name]
            tensors[f"{name}.{key}"] = Stored(dtype, bits_of)
        wanted[f"{name}.weight"] = np.array(mx.dequantize(*parts, **how).astype(mx.float32))
    settings = {"bits": bits, "group_size": group, "mode": mode}
    assert_reads(tmp_path / "m", Case(tensors, settings, wanted, "from MLX, "), rtol=1e-6)


def scheme(weights: dict[str, Any], activations: bool = False) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    inputs = QuantizationArgs(num_bits=8) if activations else None
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=inputs)


FORMATS: dict[str, dict[str, Any]] = {
    **{f"pack-quantized {bits}": {"num_bits": bits, "strategy": "group", "group_size": 32} for bits in (2, 3, 4, 5, 8)},
    "pack-quantized 4 asymmetric": {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    "pack-quantized 3 asymmetric": {"num_bits": 3, "strategy": "group", "group_size": 32, "symmetric": False},
    "pack-quantized 4 channel": {"num_bits": 4, "strategy": "channel"},
    "naive-quantized 8": {"num_bits": 8, "strategy": "channel"},
    "naive-quantized 8 asymmetric": {"num_bits": 8, "strategy": "channel", "symmetric": False},
    "float-quantized 8": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "float-quantized 8 block": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [48, 32]},
    "nvfp4-pack-quantized 4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    "mxfp4-pack-quantized 4": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    "mxfp8-quantized 8": {
        "num_bits": 8,
        "type": "float",
        "strategy": "group",
        "group_size": 32,
        "scale_dtype": "uint8",
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_compressed_tensors(name: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.base import BaseCompressor

    form, args = name.split()[0], FORMATS[name]
    if args.get("scale_dtype") == "uint8":
        args = {**args, "scale_dtype": torch.uint8}
    made = scheme(args)
    compressor = BaseCompressor.get_value_from_registry(form)
    tensors, wanted = {}, {}
    for module, values in weights().items():
        state = {"weight": values, **parameters(values, args)}
        packed = compressor.compress(dict(state), made)
        tensors |= {f"{module}.{key}": of_torch(value) for key, value in packed.items()}
        wanted[f"{module}.weight"] = compressor.decompress(dict(packed), made)["weight"].float().numpy()
    plain = {key: value for key, value in args.items() if key != "scale_dtype"}
    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": plain}},
    }
    rounded = 2**-8 if "fp4" in form else 1e-6  # the library gives bfloat16
    assert_reads(tmp_path / "m", Case(tensors, settings, wanted, "from compressed-tensors"), rtol=rounded)


def parameters(values: torch.Tensor, args: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Scales and zeros, as coarse as they may be: it is the arrangement that is tested."""
    rows, columns = values.shape
    block = args.get("block_structure") or (1, args.get("group_size") or columns)
    shape = (-(-rows // block[0]), -(-columns // block[1]))
    generator = torch.Generator().manual_seed(1)
    bits, is_float = args["num_bits"], args.get("type") == "float"
    largest = {4: 6.0, 8: 448.0}[bits] if is_float else 2.0 ** (bits - 1)
    scales = (0.5 + torch.rand(shape, generator=generator)) * 3 / largest
    if is_float and args.get("group_size") == 32:
        scales = torch.exp2(torch.round(torch.log2(scales)))
    found = {"weight_scale": scales}
    if args["strategy"] == "tensor_group":
        found["weight_global_scale"] = torch.tensor([100.0])
        found["weight_scale"] = (scales * 100).to(torch.float8_e4m3fn).float()
    if args.get("symmetric") is False:
        half = 1 << bits - 1
        found["weight_zero_point"] = torch.randint(-half, half, shape, generator=generator, dtype=torch.int8)
    return found


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_torch_save(how: dict[str, Any], tmp_path: Path) -> None:
    base = torch.randn(10, 12)
    tensors = {
        "matrix": torch.randn(3, 4),
        "turned": torch.randn(5, 6).half().t(),
        "inside": torch.randn(8, 8).bfloat16()[1:5, ::2],
        "numbers": torch.arange(5),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "rows": base[2:5],
        "base": base,
        "scalar": torch.tensor(3.5),
        "small": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "three": torch.randn(2, 3, 4).permute(2, 0, 1),
        "empty": torch.zeros(0, 3),
    }
    torch.save(tensors, tmp_path / "m.bin", **how)
    found = pickled.read(tmp_path / "m.bin")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name].read(), of_torch(tensor).bits, err_msg=name)


def test_a_module_of_torch(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save({"epoch": 1, "state_dict": module.state_dict()}, tmp_path / "m.pth")
    found = pickled.read(tmp_path / "m.pth")
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(found[name].read(), tensor.numpy())


def test_8_bit_floats_as_transformers_dequantizes_them(tmp_path: Path) -> None:
    from transformers import FineGrainedFP8Config, LlamaForCausalLM

    shapes = {name: shape for name, shape in tiny.shapes(tiny.config(**stored.SIZES)).items() if "_proj" in name}
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[name] = Stored("F8_E4M3", quantized_cases.codes8(rng, (rows, columns)))
        scales = rng.uniform(0.01, 0.1, (rows // 32, columns // 32)).astype(np.float32)
        tensors[f"{name}_scale_inv"] = Stored("F32", scales)
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    folder = stored.folder(tmp_path / "m", tensors, settings, tuple(shapes))
    how = FineGrainedFP8Config(dequantize=True, weight_block_size=(32, 32))
    model = LlamaForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.float32)
    opened = checkpoint.open(folder)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(opened.tensors[name].read_f32(), tensor.float().numpy(), err_msg=name)


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    made = Converter()
    yield made
    made.close()


OF_LLAMA_CPP: dict[str, Callable[[], Case]] = {
    "fp8": lambda: quantized_cases.fp8((32, 32)),
    "gptq 4": lambda: quantized_cases.gptq(4, 32, order=True),
    "gptq 8": lambda: quantized_cases.gptq(8, 32, order=True),
    "packed 4": lambda: quantized_cases.packed(4, 32, False),
    "packed 4 with zeros": lambda: quantized_cases.packed(4, 32, True),
    "naive": lambda: quantized_cases.naive("int", "channel"),
    "NVFP4 of ModelOpt": lambda: quantized_cases.float4("NVFP4", "modelopt"),
    "NVFP4 of compressed-tensors": lambda: quantized_cases.float4("NVFP4", "compressed-tensors"),
}


@pytest.mark.parametrize("name", OF_LLAMA_CPP)
def test_files_are_those_of_llama_cpp(name: str, converter: Converter, tmp_path: Path) -> None:
    """Its converter keeps NVFP4 whatever type it is asked for."""
    case = OF_LLAMA_CPP[name]()
    if not name.startswith("NVFP4"):  # there are scales of activations and caches that it does not expect
        case = quantized_cases.less(quantized_cases.less(case, ".input_scale"), ".k_scale")
    folder = quantized_cases.written(tmp_path / "m", case)
    converter._kept.ask(folder=str(folder), out=str(tmp_path / "theirs.gguf"), pre="gpt-2", published={}, removed=[])
    is_kept = name.startswith("NVFP4")
    types = ["ffn_(up|down)=NVFP4"] if is_kept else []
    gguflike.convert(folder, tmp_path / "ours.gguf", "F32" if not is_kept else "BF16", tensor_types=types)
    ours, theirs = (tiny.gguf_tensors(tmp_path / f"{each}.gguf") for each in ("ours", "theirs"))
    for weight in (f"blk.0.{role}.weight" for role in ("ffn_up", "ffn_down")):
        assert ours[weight].tensor_type == theirs[weight].tensor_type
        if is_kept:
            np.testing.assert_array_equal(ours[weight].data, theirs[weight].data)
            beside = weight.replace("weight", "scale")
            np.testing.assert_allclose(ours[beside].data, theirs[beside].data, rtol=1e-6)
        else:
            np.testing.assert_allclose(ours[weight].data, theirs[weight].data, rtol=1e-6)


def test_kept_blocks_compute_the_same_in_llama_cpp(llama_cpp: Callable[[Path], Any], tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in tiny.shapes(tiny.config(**stored.SIZES)).items() if "_proj" in name}
    case = quantized_cases.float4("NVFP4", "modelopt", {name.removesuffix(".weight"): s for name, s in shapes.items()})
    folder = quantized_cases.written(tmp_path / "m", case)
    ids = [1, 50, 60, 70, 80]
    logits = []
    for kind in ("NVFP4", "F32"):
        path = tmp_path / f"{kind}.gguf"
        gguflike.convert(folder, path, kind, tensor_types=["token_embd|^output=F32"])
        logits += [llama_cpp(path).logits(ids)[-1], gguflike.load(path).logits(ids)[-1]]
    for first, second in itertools.combinations(logits, 2):
        assert np.corrcoef(first, second)[0, 1] > 0.999
