#!/usr/bin/env python3
"""Make tests/goldens/recipes.json: the types that llama-quantize chooses, for models with and without experts.

    python scripts/gen_recipe_goldens.py        needs the interop extra; the package under test takes no part

A dry run of llama.cpp's quantizer says the type of each matrix. A line of the file holds, for one model and recipe and
with or without an importance matrix, the type of each role, from the first layer to the last ("Q6_K*2 Q4_K*14") where
it varies. What importance does not change is not said twice.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "tests" / "goldens" / "recipes.json"
sys.path.insert(0, str(ROOT))

from tests import tiny_gguf  # noqa: E402

WIDTH = 256
# What rules ask about: layers, query heads per key-value head, experts.
MODELS = {
    "plain": (16, 1, 0),
    "grouped in twos": (16, 2, 0),
    "grouped in fours": (33, 4, 0),
    "80 layers": (80, 1, 0),
    "80 layers, grouped in twos": (80, 2, 0),
    "80 layers, grouped in fours": (80, 4, 0),
    "3 experts": (16, 1, 3),
    "4 experts": (16, 1, 4),
    "8 experts": (16, 1, 8),
    "8 experts, grouped in fours": (32, 4, 8),
}
TYPES = {
    name.removeprefix("MOSTLY_"): kind.value
    for name, kind in gguf.LlamaFileType.__members__.items()
    if name.startswith("MOSTLY_") and "MXFP4" not in name  # for experts only there, for all matrices here
} | {"Q1_0": 40}
CHOSEN = re.compile(r"\] +(\S+\.weight) .*-> .*\((\w+)\)")


def write_model(path: Path, layers: int, group: int, experts: int) -> dict[str, int]:
    """A Llama or Mixtral of zeros; returns the columns of its matrices by name."""
    h = tiny_gguf.SMALL | {"n_layer": layers, "n_embd": WIDTH, "n_ff": WIDTH, "n_head": 4, "n_head_kv": 4 // group}
    h["head_dim"] = WIDTH // 4
    writer = gguf.GGUFWriter(path, "llama")
    tiny_gguf.metadata(writer, h)
    shapes = tiny_gguf.shapes(h, tied=False, bias=False)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
        shapes = {name: shape for name, shape in shapes.items() if "ffn_" not in name or "norm" in name}
        for i in range(layers):
            shapes[f"blk.{i}.ffn_gate_inp.weight"] = (experts, WIDTH)
            shapes |= {f"blk.{i}.ffn_{part}_exps.weight": (experts, WIDTH, WIDTH) for part in ("gate", "up", "down")}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: shape[-1] for name, shape in shapes.items() if len(shape) > 1}


class Quantizer:
    """llama.cpp's quantizer, which tells its choices to the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listen = llama_cpp.llama_log_callback(lambda _, text, __: self.lines.append(text.decode()))
        llama_cpp.llama_log_set(self.listen, ctypes.c_void_p(0))

    def choices(self, source: Path, file_type: int, importance: dict[str, np.ndarray]) -> dict[str, str] | None:
        """Type by tensor; None where llama.cpp refuses."""
        self.lines.clear()
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.dry_run = file_type, True
        kind = llama_cpp.llama_cpp.llama_model_imatrix_data
        entries = (kind * (len(importance) + 1))()
        for i, (name, values) in enumerate(importance.items()):
            entries[i] = kind(name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
        if importance:
            params.imatrix = ctypes.cast(entries, ctypes.POINTER(kind))
        target = source.with_suffix(".quantized")
        if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
            return None
        return {name: kind.upper() for name, kind in CHOSEN.findall("".join(self.lines))}


def by_role(choices: dict[str, str], layers: int) -> dict[str, str]:
    """Role -> its types from the first layer to the last."""
    roles = dict.fromkeys(name.rpartition(".weight")[0].split(".")[-1] for name in choices)
    lines = {}
    for role in sorted(roles):
        names = [f"{role}.weight"] if f"{role}.weight" in choices else [f"blk.{i}.{role}.weight" for i in range(layers)]
        runs = [(kind, len(list(run))) for kind, run in itertools.groupby(choices[name] for name in names)]
        lines[role] = runs[0][0] if len(runs) == 1 else " ".join(f"{kind}*{count}" for kind, count in runs)
    return lines


def main() -> None:
    quantizer = Quantizer()
    goldens: list[dict[str, object]] = []
    for title, (layers, group, experts) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            columns = write_model(path, layers, group, experts)
            ones = {name: np.ones(width * max(experts, 1), np.float32) for name, width in columns.items()}
            rows = []
            for name, file_type in TYPES.items():
                known: dict[str, str] | None = None
                for importance in ({}, ones):
                    choices = quantizer.choices(path, file_type, importance)
                    if choices and (roles := by_role(choices, layers)) != known:
                        rows.append({"recipe": name, "imatrix": bool(importance), **roles})
                        known = roles
        goldens += [{"model": title, "layers": layers, "group": group, "experts": experts, **row} for row in rows]
        print(f"{title}: {len(rows)} lines")
    TARGET.write_text("[\n" + ",\n".join(json.dumps(row) for row in goldens) + "\n]\n")


if __name__ == "__main__":
    main()
