"""What a file is, for who opens it for the first time: the facts of ``gguflike inspect``'s first screen.

Everything is known by the header alone, and nothing is compiled for it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gguflike.container.digest import recorded
from gguflike.container.values import INTEGERS
from gguflike.errors import GGUFError, GGUFLikeError
from gguflike.inspect.description import describe, outline, value
from gguflike.machine import machine_bytes

if TYPE_CHECKING:
    from gguflike.container import GGUFFile
    from gguflike.runner.ability import Understood

#: What ``general.type`` and ``general.architecture`` mean where a file is no language model.
_KINDS = {
    "adapter": "adapter (LoRA)",
    "mmproj": "projector: the part of a model for images or sound",
    "imatrix": "importance matrix",
    "vocab": "vocabulary",
}
_TOKENS = "tokenizer.ggml.tokens"
#: By which words of a template it is seen that it takes pictures, and that it lets a model think.
_VISION = re.compile(r"""['"](image|image_url|video)['"]|<\|?(image|vision)""")
_THINKING = re.compile(r"enable_thinking|reasoning_content|thinking")
_TOOLS = re.compile(r"\btools\b")


def document(file: GGUFFile) -> dict[str, Any]:
    """All that ``gguflike inspect`` says of an open file: what `describe` does, and the facts as ``summary``."""
    described = describe(file)
    return {**described, "summary": summary(file, described)}


def summary(file: GGUFFile, described: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The facts as JSON: None, or an empty list, where a file does not say. ``described`` is what `describe` says of
    the file, for who has it already: of many tensors their sums take a while.

    ``kind``, ``name``, ``organization``, ``license``, ``architecture``, ``file_type``, ``shards``, ``tensors``,
    ``metadata`` (how many), ``parameters``, ``file_bytes``, ``bits_per_weight``; ``layers``, ``width``,
    ``feed_forward``, ``heads``, ``kv_heads``, ``head_dim``, ``experts``, ``experts_used`` (numbers, or lists where
    layers differ), ``context``; ``vocabulary`` (tokens), ``tokenizer`` (kind and pre-tokenizer); ``templates``, each
    with its ``name`` and whether it has ``tools``, ``thinking`` and ``vision``; ``digests`` ("none", "complete" or
    "malformed"); ``runs`` and, where it does not run here, ``why``; ``memory``, each the ``bytes`` that a ``context``
    takes in all.
    """
    outlined = outline(file) if described is None else described
    model, why = _understood(file)
    memory = _memory(file, model) if model is not None else []
    machine = machine_bytes()
    if why is None and memory and memory[0]["bytes"] > machine:
        why = f"it takes {memory[0]['bytes']:,} bytes of memory, and this machine has {machine:,}"
    return {
        "kind": _kind(file),
        "name": _text(file, "general.name"),
        "organization": _text(file, "general.organization"),
        "license": _text(file, "general.license"),
        "architecture": file.architecture,
        "file_type": outlined["file_type"],
        "shards": len(file.paths),
        "tensors": len(file.infos),
        "metadata": len(file.metadata),
        **{name: outlined[name] for name in ("parameters", "file_bytes", "bits_per_weight")},
        **{name: _number(file, key) for name, key in _SIZES.items()},
        "vocabulary": file.metadata.count_of(_TOKENS) if _TOKENS in file.metadata else None,
        "tokenizer": " ".join(
            text for key in ("model", "pre") if (text := _text(file, f"tokenizer.ggml.{key}")) is not None
        )
        or None,
        "templates": list(_templates(file)),
        "digests": digests(file),
        "runs": why is None,
        "why": why,
        "memory": memory,
    }


_SIZES: Mapping[str, str] = {
    "layers": "block_count",
    "width": "embedding_length",
    "feed_forward": "feed_forward_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "experts": "expert_count",
    "experts_used": "expert_used_count",
    "context": "context_length",
}


def digests(file: GGUFFile) -> str:
    """Whether a file carries digests of its contents: "none", "complete" or "malformed". They are not compared. Of a
    split model, each file has its own."""
    try:
        found = [recorded(each.metadata, list(each.infos)) for each in file.shards]
    except GGUFError:
        return "malformed"
    return "complete" if all(each is not None for each in found) else "none"


def _understood(file: GGUFFile) -> tuple[Understood | None, str | None]:
    """The model in a file, where there is one, and why it does not run here, if so."""
    from gguflike.runner import ability

    try:
        model = ability.understand(file)
    except GGUFLikeError as error:
        return None, error.within(file.path)
    refused = ability.refusal(file, model)
    return model, None if refused is None else refused.within(file.path)


def _memory(file: GGUFFile, model: Understood) -> list[dict[str, int]]:
    """Bytes of memory, weights and all, at up to three contexts, from a short one to the model's own; none where
    tensors are not those of the model."""
    from gguflike.runner.needs import of_file, sizes

    longest = model.config.n_ctx
    step = 4 if longest >= 1 << 13 else 2
    try:
        weights = sizes(model.graph, file.infos, model.left_out, file.path)
        return [
            {"context": context, "bytes": of_file(file, model, context, weights=weights).total}
            for context in sorted({max(longest // step**2, 1), max(longest // step, 1), longest})
        ]
    except GGUFLikeError:  # which `refusal` says
        return []


def _kind(file: GGUFFile) -> str:
    stated = file.kind
    if stated in _KINDS:
        return _KINDS[stated]
    if stated != "model":
        return stated
    if not len(file.infos):
        return "vocabulary" if _TOKENS in file.metadata else "metadata alone"
    return "model"


def _text(file: GGUFFile, key: str) -> str | None:
    found = value(file, key) if key in file.metadata else None
    return found if isinstance(found, str) else None


def _number(file: GGUFFile, key: str) -> int | list[int] | None:
    """A number, or one for each layer where they differ."""
    key = f"{file.architecture}.{key}"
    metadata = file.metadata
    if key not in metadata:
        return None
    if metadata.item_type_of(key) in INTEGERS:
        numbers = metadata[key].tolist()
        return (numbers[0] if len(set(numbers)) == 1 else numbers) if numbers else None
    return int(metadata[key]) if metadata.type_of(key) in INTEGERS else None


def _templates(file: GGUFFile) -> Iterator[dict[str, Any]]:
    """The chat templates by their names, and what their text says that they can do."""
    from gguflike.chat.formats import REASONING
    from gguflike.checkpoint.tokenizer_json import chat_templates

    try:
        found = chat_templates(file.metadata)
    except GGUFLikeError:
        return
    for name, source in found.items():
        yield {
            "name": name,
            "tools": _TOOLS.search(source) is not None,
            "thinking": _THINKING.search(source) is not None
            or any(row.end in source and row.also in source for row in REASONING),
            "vision": _VISION.search(source) is not None,
        }


def folder(path: str) -> list[dict[str, Any]]:
    """The models in the GGUF files of a folder, each split one by its first file: ``file``, its name, and ``summary``,
    or the ``error`` with which it cannot be opened."""
    from gguflike.checkpoint.hub.resolver import models_of
    from gguflike.container import open

    found: list[dict[str, Any]] = []
    for name in models_of(os.listdir(path)):  # noqa: PTH208 - text
        try:
            with open(os.path.join(path, name)) as file:  # noqa: PTH118
                found.append({"file": name, "summary": summary(file)})
        except (GGUFLikeError, OSError) as error:
            found.append({"file": name, "error": str(error)})
    return found


def checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint's folder, as far as its config.json and the headers of its weights say: ``name``, ``class`` (of
    Transformers), ``architecture`` (that GGUF has for it), ``tensors``, ``parameters``, ``file_bytes``, ``types`` (by
    dtype, how many weights), ``config`` (of the sizes that it states), ``notices``; ``converts`` and, where it does not
    convert here, ``why``. Of a conversion, the tokenizer's part is not tried.

    CheckpointError where the folder holds none.
    """
    from gguflike import checkpoint as checkpoints
    from gguflike.families import demands, registry
    from gguflike.families.family import text_config

    opened = checkpoints.open(path)
    types: dict[str, int] = {}
    for tensor in opened.tensors.values():
        types[tensor.dtype] = types.get(tensor.dtype, 0) + math.prod(tensor.shape)
    architecture = why = None
    notices = list(opened.notices)
    try:
        family = registry.for_config(opened.config)
        architecture = family.name
        names = {family.canonical(name): tensor.shape for name, tensor in opened.tensors.items()}
        config, said = family.from_config(opened.config, names=names)
        notices += [*said, *demands.notices(architecture, family.graph(config))]
        family.bind(config, names)
    except GGUFLikeError as error:
        why = str(error)
    sizes = text_config(opened.config)
    return {
        "name": opened.source,
        "class": _class(opened.config.get("architectures")),
        "architecture": architecture,
        "tensors": len(opened.tensors),
        "parameters": sum(types.values()),
        "file_bytes": sum(os.path.getsize(file) for file in opened.files),  # noqa: PTH202
        "types": types,
        "config": {key: sizes[key] for key in _CONFIG if isinstance(sizes.get(key), int)},
        "notices": notices,
        "converts": why is None,
        "why": why,
    }


def _class(stated: Any) -> str | None:
    """The class that config.json names first, whatever else it has there."""
    first = stated[0] if isinstance(stated, list) and stated else stated
    return first if isinstance(first, str) else None


#: What of config.json most models state of their sizes.
_CONFIG = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "num_experts", "num_local_experts", "vocab_size", "max_position_embeddings"),
)
