#!/usr/bin/env python3
"""Make tests/goldens/recipes.json: the types that llama-quantize chooses for models of many kinds.

    python scripts/gen_recipe_goldens.py        needs the interop extra; the package under test takes no part

A dry run of llama.cpp's quantizer says the type of each matrix of the files that recipe_models.py describes; their
values are holes. For each model the goldens hold its keys, its tensors with the layers that have them, the roles that
are kept as they are, and for each recipe, with and without an importance matrix, the types of each role where they are
not the most frequent ("*"): one ("Q6_K"), or all from the first layer to the last ("Q6_K*2 Q4_K*14"). What importance
does not change is not said twice.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from recipe_models import MODELS, Model, Shape

TARGET = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "recipes.json"
TYPES = {
    name.removeprefix("MOSTLY_"): kind.value
    for name, kind in gguf.LlamaFileType.__members__.items()
    if name.startswith("MOSTLY_") and "NVFP4" not in name  # none of its targets
} | {"Q1_0": 40, "Q2_0": 41}
CHOSEN = re.compile(r"\] +(\S+\.weight) .*-> .*\((\w+)\)")
MISSING = re.compile(r"key not found in model: (\S+)|key (\S+) has wrong type \w+ but expected type (\w+)")
SIZES = {"block_count": 0, "context_length": 512, "embedding_length": 256, "feed_forward_length": 256}


def places(model: Model) -> dict[str, Shape]:
    """Shapes by the names of tensors."""
    found = {f"{role}.weight": shape for role, shape in model.tensors.items()}
    for i, layer in enumerate(model.layers):
        found |= {f"blk.{i}.{role}.weight": shape for role, shape in layer.items()}
    return found


def write(path: Path, model: Model, more: dict[str, Any]) -> None:
    """A file of ``model`` whose values are one hole; ``more`` are keys that llama.cpp asks for."""
    writer = gguf.GGUFWriter(path, model.architecture)
    keys = SIZES | {"block_count": len(model.layers)} | model.keys
    for key, value in ({f"{model.architecture}.{key}": value for key, value in keys.items()} | more).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    size = 0
    for name, shape in places(model).items():
        nbytes = 4 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes)
        size += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)


class Quantizer:
    """llama.cpp's quantizer, which tells its choices to the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listen = llama_cpp.llama_log_callback(lambda _, text, __: self.lines.append(text.decode()))
        llama_cpp.llama_log_set(self.listen, ctypes.c_void_p(0))

    def choices(self, source: Path, file_type: int, importance: dict[str, np.ndarray]) -> dict[str, str] | None:
        """Type by tensor; None where llama.cpp refuses, which the log explains."""
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

    def complete(self, path: Path, model: Model) -> None:
        """Write the file with every key that llama.cpp asks for; what they say changes no type."""
        more: dict[str, Any] = {}
        while True:
            write(path, model, more)
            if self.choices(path, TYPES["F16"], {}) is not None:
                return
            found = MISSING.search("".join(self.lines))
            if found is None:
                raise RuntimeError("".join(self.lines))
            absent, key, wanted = found.groups()
            if more.get(absent or key, 1) != 1:
                raise RuntimeError(found[0])
            more[absent or key] = {"f32": 0.5, "bool": True}.get(wanted, 1)


def by_role(choices: dict[str, str], main: str) -> dict[str, str]:
    """Role -> its types from the first layer to the last, where they are not all ``main``."""
    roles: dict[str, list[str]] = {}
    for name, kind in sorted(choices.items(), key=lambda item: layer_of(item[0])):
        roles.setdefault(role_of(name), []).append(kind)
    lines = {}
    for role, kinds in sorted(roles.items()):
        runs = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds)]
        said = runs[0][0] if len(runs) == 1 else " ".join(f"{kind}*{count}" for kind, count in runs)
        if said != main:
            lines[role] = said
    return lines


def role_of(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


def layer_of(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def runs_of(layers: list[int]) -> str:
    """``0-3,7`` for layers 0, 1, 2, 3 and 7; nothing for a tensor of no layer."""
    text = []
    for _, group in itertools.groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        text.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
    return ",".join(text) if layers != [-1] else ""


def goldens(title: str) -> dict[str, Any]:
    model, quantizer = MODELS[title], Quantizer()
    shapes = places(model)
    ones = {n: np.ones(s[-1] * (s[0] if len(s) == 3 else 1), np.float32) for n, s in shapes.items() if len(s) > 1}
    tensors: dict[str, dict[Shape, list[int]]] = {}
    for name, shape in shapes.items():
        tensors.setdefault(role_of(name), {}).setdefault(shape, []).append(layer_of(name))
    recipes: dict[str, dict[str, str]] = {}
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        quantizer.complete(path, model)
        for name, file_type in TYPES.items():
            known = None
            for importance in ({}, ones):
                choices = quantizer.choices(path, file_type, importance)
                if choices is None:
                    assert name == "Q1_0", "".join(quantizer.lines)  # has no substitute for ragged rows
                    continue
                kept = sorted({role_of(each) for each in shapes.keys() - choices.keys()})
                main = Counter(choices.values()).most_common(1)[0][0]
                row = {"*": main, **by_role(choices, main)}
                if row != known:
                    recipes[name + (" with importance" if importance else "")] = known = row
    return {
        "model": title,
        "architecture": model.architecture,
        "block_count": len(model.layers),
        "keys": {k: v for k, v in model.keys.items() if k.startswith(("expert_count", "attention.head_count"))},
        "tensors": {r: [[list(s), runs_of(x)] for s, x in found.items()] for r, found in tensors.items()},
        "kept": kept,
        "recipes": recipes,
    }


def main() -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"  # a debugger would wait for the process that it stands in
    done = []
    for title in MODELS:
        with ProcessPoolExecutor(1) as alone:  # a failed assertion of llama.cpp ends its process
            done.append(alone.submit(goldens, title).result())
        print(f"{title}: {len(done[-1]['recipes'])} rows, kept: {', '.join(done[-1]['kept'])}", flush=True)
    rows = []
    for model in done:
        recipes = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in model.pop("recipes").items())
        head = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in model.items())
        rows.append(f'{{\n{head},\n "recipes": {{\n{recipes}\n }}\n}}')
    TARGET.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
