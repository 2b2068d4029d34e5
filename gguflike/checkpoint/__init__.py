"""Hugging Face checkpoints: folders and Hub repositories, their tensors and tokenizers.

    folder                 a checkpoint: its config, and its tensors behind one mapping
    source                 where it is: a folder, or a repository of the Hub
    hub/                   repositories, read by ranges or downloaded
    elsewhere              files that are read by ranges where they are
    files                  small files, read whole
    strictjson             files of JSON, read strictly
    recognize              what cannot be converted, and tensors that no model has, by name
    card                   the YAML at the head of README.md
    sentence_transformers  modules that stand beside a model
    adapter                LoRA adapters

Tensors:

    weights                which files hold them
    safetensors            files whose header is checked before data are touched; read lazily by rows
    pickled/               files of torch.save, read without running what is in them
    mistral                Mistral's and Meta's own format, as Transformers has it
    quantized/             GPTQ, AWQ, FP8 and others as the floats that they stand for
    float8                 8-bit floats as float32
    save                   safetensors, written

Tokenizers:

    tokenizer/             files of several kinds to GGUF's metadata
    vocabulary             GGUF's metadata of a tokenizer, checked
    tokenizer_values       single values of it, checked for their kinds
    tokenizer_json         from these metadata back to tokenizer.json
    wordpiece              WordPiece (BERT), both ways
    unigram                Unigram (T5, XLM-R), both ways
    pretokenizers          how byte-level BPE cuts texts into words
    encoder                text to ids, by Hugging Face's library
    excerpt                the part of a vocabulary that a text needs
"""

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.checkpoint.folder import Checkpoint, open
    from gguflike.checkpoint.safetensors import LazyTensor

__all__ = ["Checkpoint", "LazyTensor", "open"]

__getattr__ = lazy.names(__name__, {"Checkpoint": "folder", "LazyTensor": "safetensors", "open": "folder"})
