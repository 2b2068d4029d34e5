#!/usr/bin/env python3
"""What converting takes: memory, and time beside llama.cpp's converter and beside a plain copy.

    python scripts/bench_convert.py memory [--gigabytes 8] [--single 4] [--type Q4_K_M]
    python scripts/bench_convert.py peers FOLDER --llama-cpp DIR [--python PYTHON] [--type Q4_K_M] [--rounds 3]
    python scripts/bench_convert.py copy [--gigabytes 4] [--rounds 5]

memory  makes checkpoints of random weights, one of many tensors in several files and one whose embedding alone takes
        ``--single`` gigabytes, converts each in a process of its own and says the most memory that the process had.
        The promise is 250 MiB and three slabs.
peers   converts FOLDER (SmolLM2 in float32, as ``gguflike export`` of scripts/get_models.py's file makes it), by turns
        with us and with llama.cpp: DIR/convert_hf_to_gguf.py, a checkout of which is needed, and then
        ``llama_model_quantize`` of llama-cpp-python in PYTHON, whose import is not counted. Ours is a whole process.
copy    makes a checkpoint in float16 and converts it to Q8_0, by turns with ``cp`` of its weights, both to the disk:
        ``cp`` is followed by ``sync FILE``, since we do not end before that either. Rates are of bytes read.

Everything is made in --folder (by default a temporary one) and removed. A round before the first is not counted: it
compiles kernels and brings files into memory. Medians count. --json writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from make_synthetic import of_layer

import gguflike
from gguflike.convert.encode import SLAB_BYTES

AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
ALLOWED = (250 << 20) + 3 * SLAB_BYTES
BLOCK = 1 << 24  # random weights that are written again and again

QUANTIZE = """
import ctypes, sys, time
import llama_cpp
silence = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3])
start = time.perf_counter()
done = llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params))
print(time.perf_counter() - start)
sys.exit(done)
"""


class Shape(NamedTuple):
    """A Llama of so many layers; ``rows`` of the embedding."""

    layers: int
    width: int
    ffn: int
    rows: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by name, as in a checkpoint."""
        layer = of_layer(self.width, self.width // 4, self.ffn)
        names = {f"model.layers.{i}.{name}.weight": shape for i in range(self.layers) for name, shape in layer.items()}
        return {"model.embed_tokens.weight": (self.rows, self.width), **names, "model.norm.weight": (self.width,)}


def of_size(gigabytes: float) -> Shape:
    """A model of many layers that takes about so much."""
    layer = 2 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    return Shape(max(1, round(gigabytes * 1e9 / layer)), 4096, 14336, 32000)


def one_large(gigabytes: float) -> Shape:
    """A model of one layer whose embedding takes so much."""
    return Shape(1, 16384, 512, round(gigabytes * 1e9 / 2 / 16384))


def make(folder: Path, shape: Shape, dtype: str, shard_bytes: float = 2e9) -> int:
    """A checkpoint in files of about ``shard_bytes``; the bytes of its weights."""
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (AUSTEN / name).exists():
            shutil.copy(AUSTEN / name, folder)
    fill_vocabulary(folder / "tokenizer.json", shape.rows)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // 128,
        "num_key_value_heads": shape.width // 512,
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "vocab_size": shape.rows,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    block = np.random.default_rng(0).standard_normal(BLOCK, np.float32) * np.float32(0.02)
    stored = block.astype(np.float16) if dtype == "F16" else (block.view(np.uint32) >> 16).astype(np.uint16)
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0.0
    for name, dims in shape.tensors().items():
        size = 2 * int(np.prod(dims))
        if groups[-1] and filled + size > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = dims
        filled += size
    weight_map = {}
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05}-of-{len(groups):05}.safetensors"
        write(folder / file, group, dtype, stored.tobytes())
        weight_map |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def fill_vocabulary(path: Path, size: int) -> None:
    """Give a tokenizer as many tokens as the model has rows: texts are made of the same ones as before."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first = max([*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])]) + 1
    vocabulary |= {f"unused{number}": number for number in range(first, size)}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def write(path: Path, tensors: dict[str, tuple[int, ...]], dtype: str, data: bytes) -> None:
    """One file of safetensors: ``data`` again and again."""
    header, offset = {}, 0
    for name, dims in tensors.items():
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset:
            offset -= file.write(data[: min(offset, len(data))])


def run(command: list[str | Path]) -> tuple[float, int]:
    """Seconds of a process, and the most bytes that it had in memory."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{output.decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ours(source: Path, target: Path, kind: str) -> tuple[float, int]:
    return run([sys.executable, "-m", "gguflike", "convert", source, "-o", target, "-t", kind, "--overwrite"])


def memory(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    figures = {}
    for title, shape in (("many tensors", of_size(args.gigabytes)), ("one large tensor", one_large(args.single))):
        size = make(work / "hf", shape, "BF16")
        seconds, peak = ours(work / "hf", work / "out.gguf", args.type)
        written = (work / "out.gguf").stat().st_size
        shutil.rmtree(work / "hf")
        (work / "out.gguf").unlink()
        figures[title] = {"bytes": size, "written": written, "peak": peak, "allowed": ALLOWED, "seconds": seconds}
        print(
            f"{title}: {size / 1e9:.2f} GB to {args.type} ({written / 1e9:.2f} GB) in {seconds:.1f} s; "
            f"peak {peak / 2**20:.0f} MiB of {ALLOWED / 2**20:.0f} allowed",
            flush=True,
        )
    return figures


def by_turns(rounds: int, contestants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of each, measured by turns; a round before the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, measure in contestants.items():
            seconds = measure()
            if number:
                times[name].append(seconds)
    return times


def peers(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    parts: dict[str, list[float]] = {"converter": [], "quantizer": []}

    def llama_cpp() -> float:
        between, target = work / "between.gguf", work / "theirs.gguf"
        script = args.llama_cpp / "convert_hf_to_gguf.py"
        converting, _ = run([args.python, script, args.source, "--outfile", between, "--outtype", args.outtype])
        command = [args.python, "-c", QUANTIZE, between, target, args.type]
        quantizing = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        parts["converter"].append(converting)
        parts["quantizer"].append(quantizing)
        return converting + quantizing

    times = by_turns(
        args.rounds,
        {"gguflike": lambda: ours(args.source, work / "ours.gguf", args.type)[0], "llama.cpp": llama_cpp},
    )
    medians = {name: statistics.median(each) for name, each in times.items()}
    of_parts = {name: statistics.median(each[1:]) for name, each in parts.items()}
    print(f"{args.source.name} to {args.type}: {medians['gguflike']:.2f} s; llama.cpp {medians['llama.cpp']:.2f} s")
    print(f"  convert_hf_to_gguf.py {of_parts['converter']:.2f} s, llama_model_quantize {of_parts['quantizer']:.2f} s")
    print(f"  ratio {medians['gguflike'] / medians['llama.cpp']:.2f} (at most 0.5 is promised)", flush=True)
    return {"times": times, "parts": parts}


def copy(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    size = make(work / "hf", of_size(args.gigabytes), "F16")
    gguflike.convert(work / "hf", work / "f16.gguf", "F16")
    (work / "copies").mkdir()

    def cp() -> float:
        shutil.rmtree(work / "copies")
        (work / "copies").mkdir()
        files = sorted((work / "hf").glob("*.safetensors"))
        copying = run(["cp", *files, work / "copies"])[0]
        return copying + run(["sync", *sorted((work / "copies").iterdir())])[0]

    def fresh(measure: Callable[[], tuple[float, int]]) -> float:
        (work / "out.gguf").unlink(missing_ok=True)  # as cp's target is new
        return measure()[0]

    quantize: list[str | Path] = [sys.executable, "-m", "gguflike", "quantize", work / "f16.gguf", work / "out.gguf"]
    times = by_turns(
        args.rounds,
        {
            "cp": cp,
            "convert": lambda: fresh(lambda: ours(work / "hf", work / "out.gguf", "Q8_0")),
            "quantize": lambda: fresh(lambda: run([*quantize, "-t", "Q8_0"])),
        },
    )
    rates = {name: size / statistics.median(each) for name, each in times.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate / 1e9:.2f} GB/s of float16, {rate / rates['cp']:.0%} of cp", flush=True)
    return {"bytes": size, "times": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work: a disk with room for the checkpoint and the result")
    parser.add_argument("--json", type=Path, help="write the figures there")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("memory")
    sub.add_argument("--gigabytes", type=float, default=8)
    sub.add_argument("--single", type=float, default=4)
    sub.add_argument("--type", default="Q4_K_M")
    sub = commands.add_parser("peers")
    sub.add_argument("source", type=Path)
    sub.add_argument("--llama-cpp", type=Path, required=True)
    sub.add_argument("--python", default=sys.executable)
    sub.add_argument("--type", default="Q4_K_M")
    sub.add_argument("--outtype", default="f32", help="of the file between (default: f32, which loses nothing)")
    sub.add_argument("--rounds", type=int, default=3)
    sub = commands.add_parser("copy")
    sub.add_argument("--gigabytes", type=float, default=4)
    sub.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        figures = {"memory": memory, "peers": peers, "copy": copy}[args.command](args, Path(work))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
