"""What a folder is that cannot be converted, and what tensors are that no model has: named, with what to do about it.

Two tables of signatures: names of files, asked where ``config.json`` or the weights are missing, and names and shapes
of tensors, asked of every checkpoint. The first row that fits is what is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.checkpoint import strictjson
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError, UnsupportedError

ADAPTER = "adapter_config.json"
_ORIGINAL = "convert the original, in bfloat16 or float32"
_MERGE = "merge it first: convert its base with `lora`"
_CONFIG = "put config.json and the files of its tokenizer beside it"
_TAKE = "take the original, in safetensors"
_SETTINGS = "its settings are missing: download quantize_config.json, or config.json with quantization_config, too"
HF_FILES = "take the files in the format of Hugging Face: config.json, model.safetensors"


class _Files(NamedTuple):
    """``names`` is a pattern of the name of a file, or of a folder with a slash behind it; ``what`` such a folder is.

    ``beside``: that holds where there are safetensors as well, which are of no other format.
    """

    names: str
    what: str
    remedy: str
    beside: bool = False


_FOLDERS = (
    _Files(r"model_index\.json", "a pipeline of Diffusers", "its models are in subfolders, none of language", True),
    _Files(r"snapshots/", "the Hub cache's folder of a repository", "give the folder snapshots/COMMIT in it", True),
    _Files(r"params\.json|consolidated.*\.(safetensors|pth)", "in Mistral's or Meta's own format", HF_FILES, True),
    _Files(r"zero_to_fp32\.py|global_step\d+/", "a training state of DeepSpeed", "python zero_to_fp32.py . OUTPUT"),
    _Files(r"(bf16_)?zero_pp_rank_.*|mp_rank_\d+.*", "a training state of DeepSpeed", "gather it with zero_to_fp32.py"),
    _Files(r"\.metadata|.*\.distcp|pytorch_model_fsdp_\d+/", "a training state of FSDP", "accelerate merge-weights"),
    _Files(r"checkpoint-\d+/", "the folder of a training run", "give one of the checkpoints in it", True),
    _Files(r".*\.(incomplete|crdownload|part|aria2|!qB)", "an unfinished download", "download it to the end"),
    _Files(r".*\.gguf", "a folder of GGUF files", "give the file; `gguflike quantize` writes it in another type"),
    _Files(r"(pytorch_)?model.*\.bin|.*\.(pt|pth|ckpt)", "a PyTorch checkpoint without config.json", _CONFIG),
    _Files(r".*\.onnx(_data)?|onnx/", "an ONNX model", _TAKE),
    _Files(r"tf_model.*|.*\.(h5|keras)|saved_model\.pb|.*\.ckpt\..*", "a TensorFlow or Keras checkpoint", _TAKE),
    _Files(r"flax_model.*\.msgpack", "a Flax checkpoint", _TAKE),
    _Files(r"(shared_|source_|target_)?vocabulary\.(json|txt)", "a model of CTranslate2", _TAKE),
    _Files(r"mlc-chat-config\.json|(nd|tensor)(array)?-cache\.json", "a model compiled by MLC", _TAKE),
    _Files(r"openvino_model.*|.*\.(engine|plan|mlmodelc?|mlpackage|tflite|pte|litertlm)/?", "a compiled model", _TAKE),
    _Files(r".*\.(nemo|llamafile|npz|ot|mar|task)", "a model in another format", _TAKE),
    _Files(r".*\.(zip|tar|tgz|tar\.gz|7z|rar|zst|xz)", "an archive", "unpack it first"),
)


def by_name(path: Path) -> UnsupportedError | None:
    """The error that says what a file is that is given as a checkpoint; None where its name does not tell."""
    row = next((row for row in _FOLDERS if re.fullmatch(row.names, path.name, re.IGNORECASE)), None)
    return _not_of_transformers(row, path) if row else None


def _not_of_transformers(row: _Files, path: Path, got: str | None = None) -> UnsupportedError:
    what = f"this is {row.what}, not a checkpoint of Transformers"
    return UnsupportedError(what, path=path, got=got, remedy=row.remedy)


def check_folder(folder: Path) -> None:
    """Raise an error that names what a folder is, where it is known and no checkpoint: called where something is
    missing that every checkpoint has."""
    adapter = adapter_of(folder)
    if adapter is not None:
        raise UnsupportedError(f"this is {adapter}, not a model", path=folder, remedy=_MERGE)
    entries = [path.name + "/" * path.is_dir() for path in sorted(folder.iterdir())]
    weights = any(name.endswith(".safetensors") for name in entries)
    for row in _FOLDERS:
        found = [name for name in entries if re.fullmatch(row.names, name, re.IGNORECASE)]
        if found and (row.beside or not weights):
            raise _not_of_transformers(row, folder, ", ".join(found[:3]))
    if not entries:
        expected = "config.json, files of weights and a tokenizer"
        raise CheckpointError("the folder is empty", path=folder, expected=expected, remedy="download the checkpoint")
    inner = [name for name in entries if name.endswith("/") and (folder / name / "config.json").exists()]
    if inner and not weights:
        raise CheckpointError(
            "the checkpoint is in a subfolder",
            path=folder,
            got=", ".join(inner[:3]),
            remedy=f"give {folder / inner[0]}",
        )


def adapter_of(folder: Path) -> str | None:
    """What adapter a folder has, of which model: told by adapter_config.json, or by a config.json that is a copy of
    one. None where it has none."""
    path, copy = folder / ADAPTER, folder / "config.json"
    settings = strictjson.load_config(path if path.exists() else copy) if path.exists() or copy.exists() else {}
    if not path.exists() and "peft_type" not in settings:
        return None
    method = str(settings.get("peft_type", "LORA"))
    kind = "a LoRA adapter" if method == "LORA" else f"an adapter ({method[:80]})"
    base = settings.get("base_model_name_or_path")
    return f"{kind} of {base}" if isinstance(base, str) and base else kind


def unapplied(folder: Path) -> list[str]:
    """A notice of an adapter that lies beside a model."""
    adapter = adapter_of(folder)
    return [f"{adapter} lies beside the model and is not applied; {_MERGE}"] if adapter else []


Tensors = Mapping[str, LazyTensor]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class _Kind(NamedTuple):
    """``names`` is a pattern of the names of tensors that are told by them alone, or those that ``seen`` picks."""

    names: str
    what: str
    remedy: str
    seen: Callable[[Tensors, list[str]], list[str]] = lambda _, names: names


def _has_g_idx(tensors: Tensors, names: list[str]) -> list[str]:
    """GPTQ packs its weights along columns of what it multiplies, so that scales have as many columns as the codes."""
    stem = names[0].removesuffix("qweight")
    scales = tensors.get(f"{stem}scales")
    alike = scales is not None and scales.shape[-1:] == tensors[names[0]].shape[-1:]
    return names if f"{stem}g_idx" in tensors or alike else []


def _dtypes(*wanted: str) -> Callable[[Tensors, list[str]], list[str]]:
    return lambda tensors, names: [name for name in names if tensors[name].dtype in wanted]


def _packed_beside_scales(tensors: Tensors, names: list[str]) -> list[str]:
    packed = (name for name in names if tensors[name].dtype == "U32")
    return [name for name in packed if f"{name.removesuffix('weight')}scales" in tensors]


def _nothing_else(tensors: Tensors, names: list[str]) -> list[str]:
    return names if len(names) == sum(len(tensor.shape) > 1 for tensor in tensors.values()) else []


def _empty(tensors: Tensors, names: list[str]) -> list[str]:
    return [name for name in names if tensors[name].size == 0]


def _quantized(names: str, scheme: str, held: str, seen: Any = None, remedy: str = _ORIGINAL) -> _Kind:
    what = f"the checkpoint is quantized by {scheme}: it holds {held}"
    return _Kind(names, what, remedy, seen) if seen else _Kind(names, what, remedy)


def _unsaid(names: str, scheme: str, held: str, seen: Any = None) -> _Kind:
    """Of a scheme that is read (quantized/) where something says how."""
    return _quantized(names, scheme, held, seen, _SETTINGS)


QUANTIZED = (
    _unsaid(r".*\.qweight", "GPTQ", "qweight, qzeros and scales", _has_g_idx),
    _unsaid(r".*\.qweight", "AWQ", "qweight, qzeros and scales"),
    _unsaid(r".*\.weight", "MLX", "packed weights, scales and biases", _packed_beside_scales),
    _unsaid(r".*\.(absmax|quant_map|quant_state\..*)", "bitsandbytes, in 4 bits", "packed weights and absmax"),
    _unsaid(r".*\.(SCB|weight_format)", "bitsandbytes, in 8 bits", "integers and their scales (SCB)"),
    _unsaid(r".*\.weight_scale_2", "ModelOpt, in 4-bit floats", "packed weights and two scales"),
    _unsaid(r".*\.weight_(packed|shape|zero_point)", "compressed-tensors", "packed weights and scales"),
    _unsaid(r".*\.weight_scale", "FP8 or int8", "weights and their scales"),
    _quantized(r".*\.(q_weight|q_scale_max|q_invperm)", "ExLlamaV2", "EXL2's codes"),
    _quantized(r".*\.(trellis|suh|svh)", "ExLlamaV3", "EXL3's codes"),
    _quantized(r".*\.W_q", "HQQ", "codes and their scales"),
    _quantized(r".*\.(codes|codebooks)", "AQLM", "codes and code books"),
    _quantized(r".*\.Qidxs.*", "QuIP#", "codes"),
    _quantized(r".*(\._data|:qdata|_qdata)", "quanto or torchao", "codes and their scales"),
    _quantized(r".*\.weight", "a scheme that is not known", "integers", _dtypes("I8", "U8", "I32", "U32")),
)
_ADAPTED = (
    r".*\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w\d_[ab]|lokr_w\d.*|oft_[rR]|boft_[RS]|ia3_l"
    r"|vera_lambda_[bd]|modules_to_save|original_module|lora_(up|down))(\..*)?"
)
_OTHERS = (
    _Kind(
        _ADAPTED,
        "this is an adapter, not a model",
        "give its folder, with adapter_config.json",
        _nothing_else,
    ),
    _Kind(
        _ADAPTED,
        "the model holds an adapter that was not merged",
        "merge it first: peft's merge_and_unload(), then save_pretrained()",
    ),
    _Kind(
        r".*\.weight",
        "tensors are empty: the weights were not gathered when they were saved (DeepSpeed ZeRO-3)",
        "save with stage3_gather_16bit_weights_on_model_save, or gather them with zero_to_fp32.py",
        _empty,
    ),
    _Kind(
        r".*flat_param(_\d+)?",
        "weights are flattened: they were not gathered when they were saved (FSDP)",
        "save with FULL_STATE_DICT",
    ),
    _Kind(
        r"layers\.\d+\.attention\.w[qkvo]\.weight",
        "tensors are named as in Mistral's or Meta's own format (consolidated)",
        HF_FILES,
    ),
    _Kind(r"blk\.\d+\..*|token_embd\.weight", "tensors are named as in GGUF", _ORIGINAL),
    _Kind(
        r"(.*\.)?(language_model\.encoder\.layers|decoder\.layers\.\d+\.self_attention\.linear_qkv)\..*",
        "tensors are named as in Megatron",
        "export the checkpoint to the format of Hugging Face first",
    ),
    _Kind(
        r"(model\.diffusion_model|first_stage_model|cond_stage_model|double_blocks|single_transformer_blocks"
        r"|transformer_blocks|unet|down_blocks|up_blocks)\..*",
        "this is a model that makes images or sound, not a language model",
        "gguflike converts language models and embedding models",
    ),
)


def check_tensors(tensors: Tensors, path: Path) -> None:
    """Raise an error that names what tensors are, where it is known and nothing that is converted."""
    alike: dict[str, list[str]] = {}  # names but for their numbers: there may be thousands of experts
    for name in tensors:
        alike.setdefault(_NUMBER.sub("0", name), []).append(name)
    for row in (*_OTHERS[:2], *QUANTIZED, *_OTHERS[2:]):
        pattern = re.compile(row.names)
        names = [name for one, each in alike.items() if pattern.fullmatch(one) for name in each]
        if names and (seen := row.seen(tensors, names)):
            raise UnsupportedError(row.what, path=path, tensor=seen[0][:200], remedy=row.remedy)
