"""Verify beside scanners of others: modelaudit, c4nary and hayward, on good and on bad files.

    python -m venv scanners && scanners/bin/pip install modelaudit c4nary hayward
    python scripts/compare_scanners.py scanners/bin                 files made here, and those of spec/vectors/bad
    python scripts/compare_scanners.py scanners/bin model.gguf ...  good files of one's own as well

A scanner has found a file if it says at least a warning of it, or refuses to read it as broken. What it says of any
file (that it has metadata, or no chat template) is information, and does not count. Exit status 1 where a scanner finds
something in a good file, where verify does, or where one finds more of the bad files than verify.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gguflike
from gguflike.blocks import FORMATS
from gguflike.container import TensorSpec, Writer, plan
from gguflike.verify import verify

BAD = Path(__file__).parents[1] / "spec" / "vectors" / "bad"
#: What a scanner says of a good file because it is older than a type of ggml's: shown, and no alarm.
OUTDATED = "uses unknown ggml type id"
QUIET = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "MODELAUDIT_NO_TELEMETRY": "1", "NO_COLOR": "1"}


def model(
    path: Path, change: Callable[[dict[str, bytearray]], None] = lambda _: None, kind: str = "Q4_K", **values: Any
) -> None:
    """A tiny Llama whose matrices are of a ``kind``, without digests where something is wrong with it."""
    rng = np.random.default_rng(0)
    width, ff, vocabulary = 256, 512, 64
    shapes = {
        "token_embd.weight": (vocabulary, width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
    }
    shapes |= {f"blk.0.attn_{name}.weight": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_norm.weight": (width,), "blk.0.ffn_down.weight": (width, ff)}
    shapes |= {f"blk.0.ffn_{name}.weight": (ff, width) for name in ("gate", "up")}
    tensors = {}
    for name, shape in shapes.items():
        values_of = rng.standard_normal(shape).astype(np.float32)
        tensors[name] = gguflike.quantize(values_of, kind if len(shape) > 1 else "F32", name=name)
    data = {name: bytearray(tensor.data.tobytes()) for name, tensor in tensors.items()}
    change(data)
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny",
        "llama.block_count": 1,
        "llama.context_length": 128,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ff,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 64,
        "llama.vocab_size": vocabulary,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [chr(0x100 + index) for index in range(vocabulary - 1)] + ["<|im_end|>"],
        "tokenizer.ggml.merges": ["\u0100 \u0101"],
        "tokenizer.ggml.eos_token_id": vocabulary - 1,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}",
        **{key.replace("__", "."): value for key, value in values.items()},
    }
    metadata["tokenizer.ggml.tokens"][2] = "\u0100\u0101"
    odd = any(bytes(data[name]) != tensor.data.tobytes() for name, tensor in tensors.items()) or bool(values)
    specs = [TensorSpec(name, tensor.shape, tensor.format) for name, tensor in tensors.items()]
    with Writer(path, plan(metadata, specs, digests=not odd)) as out:
        for name in tensors:
            out.write(name, bytes(data[name]))


def bad_models(folder: Path) -> None:
    """Models that load and are not what somebody meant."""

    def hole(data: dict[str, bytearray]) -> None:
        data["blk.0.ffn_up.weight"][5000 : 5000 + 4096] = bytes(4096)

    def tail(data: dict[str, bytearray]) -> None:
        for name in list(data)[-3:]:
            data[name][:] = bytes(len(data[name]))

    def zero(data: dict[str, bytearray]) -> None:
        data["blk.0.attn_q.weight"][:] = bytes(len(data["blk.0.attn_q.weight"]))

    def scale(data: dict[str, bytearray]) -> None:
        blocks = np.frombuffer(data["blk.0.ffn_down.weight"], FORMATS["Q4_K"].dtype)
        blocks["d"][100] *= 4096

    def nan(data: dict[str, bytearray]) -> None:
        np.frombuffer(data["blk.0.attn_k.weight"], FORMATS["Q4_K"].dtype)["d"][7] = np.nan

    def norm(data: dict[str, bytearray]) -> None:
        np.frombuffer(data["output_norm.weight"], np.float32)[3] = 1e30

    for name, change in {"hole": hole, "tail": tail, "zero": zero, "scale": scale, "nan": nan, "norm": norm}.items():
        model(folder / f"{name}.gguf", change)
    said: dict[str, dict[str, Any]] = {
        "template": {"tokenizer__chat_template": "{% for m in messages %}"},
        "markup": {"tokenizer__chat_template": "<|start|>{{ messages }}<|stop|>"},
        "escape": {"tokenizer__chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
        "endless": {"tokenizer__chat_template": "{{ 'A' * 10**11 }}"},
        "setting": {"llama__attention__scale": 0.25},
        "unheard-setting": {"llama__no_such_setting": 1},
        "eos": {"tokenizer__ggml__eos_token_id": 1_000_000},
        "layers": {"llama__block_count": 3},
        "heads": {"llama__attention__head_count": 5},
        "ff": {"llama__feed_forward_length": 100},
        "scores": {"tokenizer__ggml__scores": np.zeros(7, np.float32)},
        "types": {"tokenizer__ggml__token_type": np.full(64, 9, np.int32)},
        "pre": {"tokenizer__ggml__pre": 7},
    }
    for name, values in said.items():
        model(folder / f"{name}.gguf", **values)
    model(folder / "flip.gguf")
    whole = bytearray((folder / "flip.gguf").read_bytes())
    whole[-100] ^= 1
    (folder / "flip.gguf").write_bytes(whole)
    model(folder / "cut.gguf")
    (folder / "cut.gguf").write_bytes((folder / "cut.gguf").read_bytes()[:-5000])


def good_models(folder: Path) -> None:
    """Models by our writer, of each type that models are stored in."""
    for name, fmt in FORMATS.items():
        if fmt.is_integer or name in ("Q8_1", "Q8_K", "F64"):
            continue
        model(folder / f"{name}.gguf", kind=name)


def by_modelaudit(tools: Path, files: list[Path]) -> dict[Path, str]:
    """All files in one run, which takes seconds to start."""
    out = _json([tools / "modelaudit", "scan", "-q", "-f", "json", "--no-cache", *files])
    found: dict[Path, str] = {}
    for issue in out["issues"]:
        if issue["severity"] in ("warning", "critical"):
            path = next((file for file in files if str(issue["location"] or "").startswith(str(file))), None)
            if path is not None:
                found.setdefault(path, issue["message"])
    return found


def by_hayward(tools: Path, files: list[Path]) -> dict[Path, str]:
    """All files in one run."""
    out = _json([tools / "hayward", "scan", "-f", "json", *files])
    found: dict[Path, str] = {}
    for each in [*out["findings"], *({"file": gap["file"], **gap} for gap in out["coverage_gaps"] if "file" in gap)]:
        if each.get("severity") != "info":
            for path in files:
                if Path(each["file"]).name == path.name:
                    found.setdefault(path, str(each.get("message") or each))
    return found


def by_c4nary(tools: Path, files: list[Path]) -> dict[Path, str]:
    """A run for each file."""
    found: dict[Path, str] = {}
    for path in files:
        command: list[str | Path] = [tools / "c4nary", "scan", "--json", "--deep-tokenizer", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET)
        if not done.stdout.startswith("{"):
            found[path] = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
            continue
        worse = [each for each in json.loads(done.stdout)["findings"] if each["severity"] not in ("INFO", "PASS")]
        if worse:
            found[path] = f"{worse[0]['rule_id']} {worse[0]['detail']}"
    return found


def by_verify(_: Path, files: list[Path]) -> dict[Path, str]:
    """Ours, in this process: warnings and errors."""
    found = {}
    for path in files:
        report = verify(path)
        if not report.passes("warning"):
            found[path] = str(report.findings[0])
    return found


def _json(command: list[str | Path]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    return json.loads(done.stdout[done.stdout.index("{") :])


SCANNERS = {"modelaudit": by_modelaudit, "c4nary": by_c4nary, "hayward": by_hayward, "verify": by_verify}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", type=Path, help="folder with the scanners' programs")
    parser.add_argument("good", type=Path, nargs="*", help="good files beside those made here")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what each scanner says of each file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        good_folder, bad_folder = Path(made) / "good", Path(made) / "bad"
        good_folder.mkdir()
        bad_folder.mkdir()
        good_models(good_folder)
        bad_models(bad_folder)
        groups = {
            "good": [*sorted(good_folder.iterdir()), *args.good],
            "broken rules": sorted(BAD.glob("*.gguf")),
            "odd models": sorted(bad_folder.iterdir()),
        }
        found = {
            scanner: {group: look(args.tools, files) for group, files in groups.items()}
            for scanner, look in SCANNERS.items()
        }
        print("| | " + " | ".join(f"{group} ({len(files)})" for group, files in groups.items()) + " |")
        print("|---|" + "---|" * len(groups))
        for scanner, by_group in found.items():
            print(f"| {scanner} | " + " | ".join(str(len(by_group[group])) for group in groups) + " |")
        if args.verbose:
            for group, files in groups.items():
                for path in files:
                    for scanner, by_group in found.items():
                        print(f"{group}: {path.name}: {scanner}: {by_group[group].get(path, '-')[:160]}")
        for scanner, by_group in found.items():
            for path, what in by_group["good"].items():
                print(f"{scanner} in the good file {path.name}: {what}")
    totals = {scanner: sum(len(by_group[group]) for group in list(groups)[1:]) for scanner, by_group in found.items()}
    alarms = any(OUTDATED not in what for by_group in found.values() for what in by_group["good"].values())
    return 1 if alarms or max(totals.values()) > totals["verify"] else 0


if __name__ == "__main__":
    sys.exit(main())
