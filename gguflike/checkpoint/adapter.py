"""LoRA adapters as PEFT saves them: small matrices whose products are added to a model's.

Of a weight W (rows, columns) that the adapter changes, it has A (rank, columns) and B (rows, rank), and means
``W + scale * B @ A``, where ``scale`` is ``lora_alpha / rank`` (Hu et al., LoRA, arXiv:2106.09685), or ``lora_alpha /
sqrt(rank)`` (rsLoRA, arXiv:2312.03732). DoRA (arXiv:2402.09353) also has a magnitude m of each row, and means ``m /
|row| * row`` of each row of that. Whatever else PEFT can train is refused by name.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflike.checkpoint import files, mistral, strictjson, weights
from gguflike.checkpoint.recognize import ADAPTER
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.checkpoint.source import called, fetched
from gguflike.errors import CheckpointError, UnsupportedError

WEIGHTS = ("adapter_model.safetensors", "adapter_model.safetensors.index.json", "adapter_model.bin")
_PREFIX = re.compile(r"^base_model\.(model\.)?")
# The name of the adapter, which PEFT leaves out when it saves, and whoever saves a model's whole state does not.
_ADAPTER = re.compile(r"(\.lora_(?:[AB]|embedding_[AB]|magnitude_vector)|\.modules_to_save)\.default(\.|$)")
_PARTS = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(\.weight)?|base_layer\.(?P<base>weight|bias)"
    r"|(modules_to_save\.)?(?P<whole>weight|bias))"
)
_REPEATS = 3  # in a pattern of modules' names: more, or repeated groups, can take for ever
# What changes the weights that the adapter was trained beside, which it can only be merged into by its own program.
_INITIAL = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
#: Settings of methods that compute something else than the formulas above -> what they are.
_REFUSED = {
    "target_parameters": "matrices of experts in one tensor (target_parameters)",
    "trainable_token_indices": "single rows of the embedding (trainable_token_indices)",
    "layer_replication": "layers that are repeated (layer_replication)",
    "megatron_config": "layers of Megatron",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one weight: ``scale * b @ a``, or the transpose of that for an ``embedding``, whose
    weight PEFT sees the other way round, and for one that may stand so (``turned``: fan_in_fan_out) and has that shape.
    ``alpha`` and the rank make ``scale``."""

    a: LazyTensor
    b: LazyTensor
    alpha: float
    scale: float
    embedding: bool = False
    magnitude: LazyTensor | None = None
    turned: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def product(self) -> tuple[int, int]:
        """The shape of ``b @ a``."""
        return self.b.shape[0], self.a.shape[1]

    def transposed(self, shape: tuple[int, ...]) -> bool | None:
        """Whether a weight of ``shape`` stands the other way round than the product; None where it fits in no way."""
        if self.embedding or (self.turned and shape == self.product[::-1]):
            return True if shape == self.product[::-1] else None
        return False if shape == self.product else None


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. ``factors``, ``replaced`` (whole tensors) and ``biases`` (what is added, and its scale) are by
    the names of the model's tensors."""

    folder: Path
    source: str
    base: str | None
    settings: Mapping[str, Any] = field(repr=False)
    factors: Mapping[str, Factors] = field(repr=False)
    replaced: Mapping[str, LazyTensor] = field(repr=False)
    biases: Mapping[str, tuple[LazyTensor, float]] = field(repr=False)
    files: tuple[Path, ...] = ()

    def inputs(self) -> list[Path]:
        """The files that are read, or could be."""
        return [self.folder / ADAPTER, *self.files, *(self.folder / name for name in (*WEIGHTS, "README.md"))]


def is_adapter(source: str | os.PathLike[str]) -> bool:
    """Whether a folder has an adapter and no model."""
    folder = Path(source)
    if not folder.is_dir() or _settings_path(folder) is None:
        return False
    return not has_model(folder)


def has_model(folder: Path) -> bool:
    """Whether a folder holds weights of a model, all of them or not."""
    return weights.has_any(folder) or bool(mistral.weight_files(folder))


def open_adapter(source: str | os.PathLike[str]) -> Adapter:
    """Open a folder that PEFT has saved, or a repository of the Hub with one.

    CheckpointError where a file is missing or the tensors do not belong together, UnsupportedError for a method that is
    not LoRA or DoRA, and for a tensor that is none of theirs.
    """
    folder = Path(fetched(source)[0])
    path = _settings_path(folder) if folder.is_dir() else None
    if path is None:
        raise CheckpointError(
            "no such adapter",
            path=source,
            expected=f"a folder with {ADAPTER} and {WEIGHTS[0]}",
            got="a folder without" if folder.is_dir() else "no folder",
        )
    settings = strictjson.load(path)
    _check_settings(settings, path)
    weight_file = next((folder / name for name in WEIGHTS if files.present(folder / name)), None)
    if weight_file is None:
        raise CheckpointError("the adapter has no weights", path=folder, expected=WEIGHTS[0])
    found = weights.of_file(weight_file)
    base = settings.get("base_model_name_or_path")
    factors, replaced, biases = _sorted(found.tensors, settings, weight_file)
    return Adapter(
        folder=folder,
        source=called(folder)[0],
        base=base if isinstance(base, str) and base else None,
        settings=settings,
        factors=factors,
        replaced=replaced,
        biases=biases,
        files=found.files,
    )


def _settings_path(folder: Path) -> Path | None:
    """The file that says how an adapter was made: adapter_config.json, or config.json where that is a copy of it."""
    path, copy = folder / ADAPTER, folder / "config.json"
    if files.present(path):
        return path
    return copy if files.present(copy) and "peft_type" in strictjson.load_config(copy) else None


def _check_settings(settings: Mapping[str, Any], path: Path) -> None:
    if "peft_type" not in settings and ("lora_parameters" in settings or "fine_tune_type" in settings):
        raise UnsupportedError(
            "this is an adapter made by MLX, whose matrices have other names and scales",
            path=path,
            remedy="fuse it first: mlx_lm.fuse --model BASE --adapter-path ADAPTER",
        )
    method = settings.get("peft_type", "LORA")
    if method != "LORA":
        raise UnsupportedError(
            f"this is an adapter of another kind ({str(method)[:80]})",
            path=path,
            expected="LORA",
            remedy="merge it first: peft's merge_and_unload(), then save_pretrained()",
        )
    for key, what in _REFUSED.items():
        if settings.get(key):
            raise UnsupportedError(f"the adapter changes {what}", path=path, field=key, got=repr(settings[key])[:120])
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_INITIAL):
        raise UnsupportedError(
            "the adapter was trained beside changed weights",
            path=path,
            field="init_lora_weights",
            got=repr(start),
            remedy="save it with path_initial_model_for_weight_conversion, or merge it by PEFT",
        )


def _sorted(
    tensors: Mapping[str, LazyTensor], settings: Mapping[str, Any], path: Path
) -> tuple[dict[str, Factors], dict[str, LazyTensor], dict[str, tuple[LazyTensor, float]]]:
    """Every tensor in its place."""
    parts: dict[str, dict[str, LazyTensor]] = {}
    replaced: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        match = _PARTS.fullmatch(_ADAPTER.sub(r"\1\2", _PREFIX.sub("", name)))
        if match is None or "lora_" in match["module"]:
            raise UnsupportedError(
                "a tensor that is none of LoRA's",
                path=path,
                tensor=name[:200],
                expected="names such as MODULE.lora_A.weight and MODULE.lora_B.weight",
                remedy="merge the adapter by the library that made it",
            )
        whole = match["whole"] or match["base"]
        if whole:
            replaced[f"{match['module']}.{whole}"] = tensor
        else:
            parts.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = tensor
    factors = {f"{module}.weight": _factors(module, each, settings, path) for module, each in parts.items()}
    biases = {
        f"{module}.bias": (each["lora_B.bias"], factors[f"{module}.weight"].scale)
        for module, each in parts.items()
        if "lora_B.bias" in each
    }
    return factors, replaced, biases


def _factors(module: str, parts: Mapping[str, LazyTensor], settings: Mapping[str, Any], path: Path) -> Factors:
    embedding = any("embedding" in part for part in parts)
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    missing = [name for name in names if name not in parts]
    if missing:
        raise CheckpointError(
            "a matrix of the adapter is missing",
            path=path,
            tensor=f"{module}.{missing[0]}",
            expected=" and ".join(names),
            got=" and ".join(sorted(parts)),
            remedy="the file is incomplete: get the adapter again",
        )
    a, b = (parts[name] for name in names)
    rank = _setting(settings, "r", "rank_pattern", module, path)
    alpha = _setting(settings, "lora_alpha", "alpha_pattern", module, path)
    if len(a.shape) > 2 or len(b.shape) > 2:
        raise UnsupportedError("the adapter changes a convolution", path=path, tensor=a.name, got=a.shape)
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            "the matrices of the adapter do not belong together",
            path=path,
            tensor=a.name,
            expected=f"({rank:g}, columns) and (rows, {rank:g})",
            got=f"{a.shape} and {b.shape}",
        )
    magnitude = parts.get("lora_magnitude_vector")
    if settings.get("use_dora") and magnitude is None:
        raise CheckpointError(
            "a vector of magnitudes is missing, which `use_dora` says that the adapter has",
            path=path,
            tensor=f"{module}.lora_magnitude_vector",
            remedy="the file is incomplete: get the adapter again",
        )
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    turned = bool(settings.get("fan_in_fan_out"))
    return Factors(a, b, alpha, scale, embedding, magnitude, turned)


def _setting(settings: Mapping[str, Any], key: str, patterns_key: str, module: str, path: Path) -> float:
    """A number of a module: that of the first pattern which fits the end of its name, or that of all, which PEFT has as
    8 where nothing is said."""
    patterns = settings.get(patterns_key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError("not a mapping", path=path, field=patterns_key, got=repr(patterns)[:120])
    pattern = next((each for each in patterns if _fits(each, module, path, patterns_key)), None)
    value = settings.get(key, 8) if pattern is None else patterns[pattern]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        field = key if pattern is None else patterns_key
        raise CheckpointError("not a positive number", path=path, field=field, got=repr(value)[:120])
    return float(value)


def _fits(pattern: str, module: str, path: Path, key: str) -> bool:
    if len(pattern) > 1000 or len(re.findall(r"[*+{]", pattern)) > _REPEATS or re.search(r"\)[*+{]", pattern):
        raise CheckpointError("a pattern is too complicated", path=path, field=key, got=repr(pattern)[:120])
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error as error:
        raise CheckpointError(f"not a pattern: {error}", path=path, field=key, got=repr(pattern)[:120]) from None
