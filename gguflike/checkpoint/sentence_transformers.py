"""What sentence-transformers keeps beside a model: ``modules.json`` and a folder for each module.

An embedding model is a chain of modules: the transformer, how its vectors become one (Pooling), linear layers (Dense),
normalization to length 1 (which is the caller's business here).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files, strictjson
from gguflike.checkpoint.safetensors import LazyTensor, read_header
from gguflike.checkpoint.save import Entry
from gguflike.errors import CheckpointError, UnsupportedError

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
_LINEAR = "torch.nn.modules.linear.Identity"


def _paths(folder: Path, kind: str) -> list[str]:
    """The folders of the modules of a kind ("Pooling", "Dense"), in order."""
    path = folder / MODULES
    if not files.present(path):
        return []
    modules = strictjson.load_list(path)
    known = all(isinstance(each, dict) and isinstance(each.get("type"), str) for each in modules)
    if not known:
        raise CheckpointError("not a list of modules", path=path, expected='{"type": ..., "path": ...} for each')
    chosen = [each.get("path") for each in modules if each["type"].rpartition(".")[2] == kind]
    for each in chosen:
        if not isinstance(each, str) or not each or Path(each).name != each or each.startswith("."):
            raise CheckpointError("a module's path is not the name of a folder", path=path, got=repr(each)[:120])
    return [str(each) for each in chosen]


def folders(folder: Path) -> list[str]:
    """The folders of the modules that are read."""
    return [*_paths(folder, "Pooling"), *_paths(folder, "Dense")]


def pooling(folder: Path) -> Mapping[str, Any] | None:
    """The configuration of the pooling, or None where the model is none of sentence-transformers."""
    found = _paths(folder, "Pooling")
    if len(found) > 1:
        raise UnsupportedError("more than one pooling", path=folder / MODULES, got=", ".join(found))
    return strictjson.load(folder / found[0] / "config.json") if found else None


def dense(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of the linear layers behind the pooling, as ``<folder>.<name>``.

    UnsupportedError where one has an activation function.
    """
    tensors: dict[str, LazyTensor] = {}
    for name in _paths(folder, "Dense"):
        config = strictjson.load(folder / name / "config.json")
        if config.get("activation_function") != _LINEAR:
            raise UnsupportedError(
                "activation of a dense module",
                path=folder / name / "config.json",
                expected=_LINEAR,
                got=repr(config.get("activation_function"))[:120],
            )
        read = read_header(folder / name / "model.safetensors")
        tensors |= {f"{name}.{tensor}": value for tensor, value in read.items()}
    return tensors


def dense_sizes(tensors: Mapping[str, LazyTensor]) -> dict[str, int]:
    """The sizes of the linear layers of `dense`, called as llama.cpp does: ``dense_2_feat_in`` of the module 2_Dense.

    UnsupportedError for a bias, which GGUF has no place for.
    """
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        module, _, role = name.partition(".")
        if role != "linear.weight" or len(tensor.shape) != 2:
            raise UnsupportedError("tensor of a dense module", path=tensor.path, tensor=role, expected="linear.weight")
        stem = f"dense_{module.partition('_')[0]}_feat"
        sizes |= {f"{stem}_out": tensor.shape[0], f"{stem}_in": tensor.shape[1]}
    return sizes


def in_modules(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The files of linear layers, each with its tensors, of all that an export writes."""
    files: dict[str, list[Entry]] = {}
    for entry in entries:
        module, _, title = entry.name.partition(".")
        if module.endswith("_Dense"):
            files.setdefault(f"{module}/model.safetensors", []).append(replace(entry, title=title))
    return files


def documents(pooling: Mapping[str, Any], dense: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The JSON files, by path, of a model with that pooling and linear layers (name -> rows, columns)."""
    chain = [("", "Transformer"), ("1_Pooling", "Pooling"), *((name, "Dense") for name in dense)]
    chain.append((f"{len(chain)}_Normalize", "Normalize"))
    kinds = "sentence_transformers.models"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{kinds}.{kind}"} for i, (path, kind) in enumerate(chain)
    ]
    layers = {
        f"{name}/config.json": {
            "in_features": columns,
            "out_features": rows,
            "bias": False,
            "activation_function": _LINEAR,
        }
        for name, (rows, columns) in dense.items()
    }
    return {MODULES: modules, POOLING: pooling, **layers}
