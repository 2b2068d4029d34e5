"""The tokenizer of a Hugging Face folder -> the ``tokenizer.*`` metadata of a GGUF file.

Everything is read from the files a folder publishes, chiefly tokenizer.json; nothing is tokenized to find out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.checkpoint import pretokenizers, unigram, wordpiece
from gguflike.checkpoint.tokenizer import added, bpe
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.checkpoint.tokenizer.losses import Losses
from gguflike.checkpoint.tokenizer.special import Roles
from gguflike.checkpoint.vocabulary import CHAT_TEMPLATE, CHAT_TEMPLATES, MODEL, PRE, TOKENS, TYPES
from gguflike.errors import CheckpointError, UnsupportedError


@dataclass(frozen=True)
class Reading:
    """What a folder's tokenizer amounts to. ``metadata`` are the ``tokenizer.*`` keys, ready for the writer.

    ``notices`` tell what of the source the file cannot say; ``reference`` is the source without that, as
    tokenizer.json: what is written has to give the same ids. ``words`` are texts in which a difference is likely,
    ``surrounded`` says whether the tokens put around a text are to be compared too. ``path`` is the file that has the
    vocabulary. If ``lenient``, the caller accepts that ordinary texts get other ids.
    """

    metadata: dict[str, Any]
    notices: tuple[str, ...]
    reference: dict[str, Any]
    words: tuple[str, ...]
    surrounded: bool
    path: Path
    lenient: bool


def metadata_from_folder(
    folder: Path, config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The metadata of `read`."""
    return read(folder, config, generation_config).metadata


def read(
    folder: Path,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None = None,
    general: Mapping[str, Any] | None = None,
    lenient: bool = False,
) -> Reading:
    """The tokenizer of the checkpoint in ``folder``.

    Token types are int32 and scores float32 arrays, tokens and merges lists of str. The vocabulary is padded with
    unused tokens "[PAD<id>]" to the ``vocab_size`` of ``config``, the rows of the embedding. ``general`` are the
    ``general.*`` keys of the file, by which its readers know some models. If ``lenient``, what would give ordinary
    texts other ids is a notice as well.

    Raises CheckpointError where files are missing or contradict each other, UnsupportedError where the tokenizer does
    something that GGUF has no way to say and that changes the ids of ordinary texts.
    """
    source = TokenizerFiles(folder, config)
    losses = Losses(source.document, lenient)
    model = _model(source, config)
    vocab = added.vocabulary(source)
    tokens = added.token_texts(source, vocab, _vocab_size(config), losses)
    roles = Roles(source, tokens, config, generation_config)
    types = added.token_types(source, vocab, tokens, roles.ids.get("unk") if model in ("llama", "t5") else None)
    metadata: dict[str, Any] = {MODEL: model}
    if model == "llama":
        metadata |= bpe.scored(source, tokens, types, losses)
    elif model == "gpt2":
        metadata |= bpe.byte_level(source, losses)
    elif model == "gemma4":
        metadata |= bpe.raw(source, len(tokens), losses)
    elif model == "t5":
        metadata |= unigram.fields(source, len(tokens), losses)
    else:
        metadata |= wordpiece.fields(source)
    added.complete(source, tokens, {**(general or {}), PRE: metadata.get(PRE)}, losses)
    metadata[TOKENS] = wordpiece.to_gguf(tokens, types) if model == "bert" else tokens
    metadata[TYPES] = np.array(types, np.int32)
    metadata |= roles.fields(model, losses)
    return Reading(
        metadata=metadata | _template_fields(source),
        notices=tuple(losses.notices),
        reference=losses.reference,
        words=tuple(losses.words),
        surrounded=losses.surrounded,
        path=source.path,
        lenient=lenient,
    )


#: Beginnings of ``model_type`` of models whose merges llama.cpp takes as they are, though SentencePiece made them.
_RAW = ("gemma4",)


def _model(source: TokenizerFiles, config: Mapping[str, Any]) -> str:
    """GGUF's name for the kind of vocabulary. UnsupportedError where it has none."""
    kind = source.model.get("type")
    if kind in ("WordPiece", "Unigram"):
        return "bert" if kind == "WordPiece" else "t5"
    if not _is_sentencepiece(source):
        return "gpt2"
    return "gemma4" if str(config.get("model_type")).startswith(_RAW) else "llama"


def _is_sentencepiece(source: TokenizerFiles) -> bool:
    """True for SentencePiece-style BPE, False for byte-level BPE; other models are not handled."""
    kind = source.model.get("type")
    if kind not in (None, "BPE"):
        raise UnsupportedError(
            "tokenizer model is not handled",
            path=source.path,
            field="model.type",
            expected="BPE, WordPiece or Unigram",
            got=kind,
        )
    steps = pretokenizers.flatten(source.node("pre_tokenizer"))
    if any(step.get("type") == "ByteLevel" for step in steps):
        return False
    if source.model.get("byte_fallback"):
        return True
    raise UnsupportedError(
        "BPE is neither byte-level nor has byte fallback",
        path=source.path,
        field="pre_tokenizer",
        got=", ".join(str(step.get("type")) for step in steps) or "nothing",
    )


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    if size is None and isinstance(config.get("text_config"), dict):
        size = config["text_config"].get("vocab_size")
    return size if isinstance(size, int) else None


def _template_fields(source: TokenizerFiles) -> dict[str, Any]:
    """Chat templates: the default under tokenizer.chat_template, others under tokenizer.chat_template.<name>.

    As llama.cpp's writer has it, what is neither a letter nor a digit of ASCII in a name becomes "_".
    """
    templates = source.templates()
    fields: dict[str, Any] = {}
    if "default" in templates:
        fields[CHAT_TEMPLATE] = templates.pop("default")
    named = {re.sub(r"[^a-zA-Z0-9]", "_", name): text for name, text in templates.items()}
    if len(named) < len(templates):
        raise CheckpointError(
            "chat templates whose names GGUF cannot tell apart",
            path=source.folder,
            field="chat_template",
            got=", ".join(templates),
            remedy="rename one of them",
        )
    for name, text in named.items():
        fields[f"{CHAT_TEMPLATE}.{name}"] = text
    if named:
        fields[CHAT_TEMPLATES] = list(named)
    return fields
